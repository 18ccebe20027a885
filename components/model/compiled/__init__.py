"""Code for CPUs that Numba compiles: fp32 training's attention and rows, and a small model's forward pass.

``basics.py`` and ``products.py`` are what it is made of; files named ``..._loops.py`` hold what is compiled, the others
call it with torch's tensors. Training imports Numba, which takes a while, when it first computes.
"""
