"""Measures the kernels against the goals. ``python -m kernels.bench``; needs torch and triton only."""
