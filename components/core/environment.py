"""Process-wide switches that only work before the libraries they concern are imported."""

import os


def quiet_threads() -> None:
    """Let idle OpenMP threads spin for some 50 microseconds and then sleep, unless the user has chosen otherwise.

    A small model's step has a thousand parallel regions with little between them. Threads that sleep at once cost it a
    third of its speed; threads that spin until they are needed cost far more when another process wants the core.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
