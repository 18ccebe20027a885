"""A model as files that other engines read, and what their rounding costs."""
