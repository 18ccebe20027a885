"""The machine learning of Lacewing: plain functions from artifacts to artifacts.

Nothing in here knows Prefect, MLflow, Hydra or DVC; those live in ``flows``.
"""

from components.core.environment import quiet_threads

# Before torch loads its OpenMP runtime: spinning threads cost up to 80x on a shared two-core machine.
quiet_threads()
