"""What `dien-report` is made of: variants and their comparison, tables, differences, the page."""
