"""Objectives: what each token of a training batch costs, and how much it counts."""
