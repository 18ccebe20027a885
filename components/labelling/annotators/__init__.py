"""Ways to find the factual tokens of a text."""
