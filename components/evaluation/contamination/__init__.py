"""Are the examples of an evaluation in the training text? Shared runs of words, and near-duplicates."""
