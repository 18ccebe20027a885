"""Process-wide switches that only work before the libraries they concern are imported."""

import os


def quiet_threads() -> None:
    """Make idle OpenMP threads sleep instead of spin, unless the user has chosen otherwise."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
