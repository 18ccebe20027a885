"""The columns beside packed texts."""

LABEL = "label"
"""The label of a text, at the boundary that ends it."""
TEXT = "text"
"""The number of the text in its split, at the same place."""
UNLABELLED = -1
"""Where no text ends."""
