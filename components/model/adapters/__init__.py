"""Adapters: a few weights that are trained on a frozen model, and merged into it or kept apart."""
