"""One rule for all tests: nothing touches the workspace of the person who runs them."""

import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

# Before anything imports a Triton kernel: without a GPU the interpreter runs them.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The GPU lane needs nothing but torch, triton and pytest; there, only the kernels' own tests can be collected.
collect_ignore_glob: list[str] = []
if find_spec("pydantic") is None:
    collect_ignore_glob = [f"{path.name}*" for path in Path(__file__).parent.iterdir() if path.name != "kernels"]

# Neither a GPU nor numpy, which the interpreter needs: no kernel runs here, and what needs a GPU says so.
if not torch.cuda.is_available() and find_spec("numpy") is None:
    collect_ignore_glob += ["kernels/attention*", "kernels/cross_entropy*", "kernels/test_interpreter*"]

# Before anything imports flows, which gives Prefect and MLflow their place from it.
os.environ["LACEWING_WORKSPACE"] = tempfile.mkdtemp(prefix="lacewing-tests-")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _small_numbers() -> Iterator[None]:
    """Training flushes denormal numbers to zero, in the whole process; Hypothesis's floats need them."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of this test's own. (Prefect keeps the one of the test session: it is read at import.)"""
    monkeypatch.setenv("LACEWING_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path / "workspace"


@pytest.fixture(scope="module")
def quick_peak() -> Iterator[None]:
    """The denominator of MFU takes a third of a second to measure, and every training measures it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.training.throughput._PRODUCT_SIZE", 64)
        patch.setattr("components.training.throughput._PRODUCT_SECONDS", 0.0)
        yield
