"""Moving in: trained networks of RecBole 1.2.1 and hopwise 0.9.1 as networks of this project."""
