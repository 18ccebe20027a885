"""How many threads a server gives its forward pass."""

import os

import psutil
import pytest

from components.deployment.forward_threads import forward_threads


@pytest.mark.parametrize(("usable", "physical", "threads"), [(1, 1, 1), (2, 2, 1), (8, 4, 3), (3, 16, 2), (4, None, 3)])
def test_one_core_is_left_free(
    usable: int, physical: int | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(usable)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: physical)
    assert forward_threads(0) == threads


def test_who_asks_gets_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert forward_threads(0) == 0
    assert forward_threads(5) == 5
