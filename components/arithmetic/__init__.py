"""Exact arithmetic, and the notation ``<<48/2=24>>`` of GSM8K in which texts show it. Standard library only."""
