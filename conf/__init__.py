"""Configuration: YAML values, the typed schema they must fit, and the one function that joins Hydra to it."""
