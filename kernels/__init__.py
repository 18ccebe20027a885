"""Triton kernels for the hot paths, each with the plain-PyTorch function that it equals.

This module imports neither torch nor triton: transformers probes a PyPI package of the same name at import time.
"""

__version__ = "0.1.0"
