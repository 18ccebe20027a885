"""Models side by side, over the table of scores."""
