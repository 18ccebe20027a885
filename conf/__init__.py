"""Configuration: YAML values, their typed schema, and the one function that connects Hydra to it."""
