"""Preferences: of two answers, the model learns to prefer the one that people (or the facts) prefer."""
