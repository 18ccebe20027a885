"""Classification: which of a set of labels a text has, told by a head on the hidden states of the model."""
