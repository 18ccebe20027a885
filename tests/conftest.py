"""One rule for all tests: nothing touches the workspace of the person who runs them."""

import os
import tempfile
from pathlib import Path

import pytest

# Before anything imports flows, which gives Prefect and MLflow their place from it.
os.environ["LACEWING_WORKSPACE"] = tempfile.mkdtemp(prefix="lacewing-tests-")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of this test's own. (Prefect keeps the one of the test session: it is read at import.)"""
    monkeypatch.setenv("LACEWING_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path / "workspace"
