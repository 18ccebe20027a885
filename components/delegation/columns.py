"""The columns that delegation reads beside the tokens."""

FACTUAL = "factual"
"""Bits: the token states a fact."""
JUDGED = "judged"
"""Bits: the token belongs to a value that a judge labelled; only some corpora have them."""
