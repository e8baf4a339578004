"""A ranker behind HTTP: requests are checked, queued, batched and ranked; user states are kept between them."""
