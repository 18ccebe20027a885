"""Delegation: which facts a small model leaves to a helper, and how the two answer together (arXiv:2602.12005)."""
