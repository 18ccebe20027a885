"""The column beside packed texts."""

LABEL = "label"
"""The label of a text, at the boundary that ends it."""
UNLABELLED = -1
"""Where no text ends."""
