"""Are the facts right? Precision, recall, leakage and discrimination, on the closed world and on real text."""
