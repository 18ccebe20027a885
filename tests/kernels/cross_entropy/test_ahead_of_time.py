"""The real compiler makes of the row kernels what they promise: whole loads, no spills, loops that do not wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux")
def test_rows_compile_for_hopper_to_loops_without_waiting(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.kernels.cross_entropy.ahead_of_time"]
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [line[:2] for line in lines] == [
        [kernel, dtype] for kernel in ("_measure", "_differentiate") for dtype in ("bfloat16", "float32")
    ]
    for kernel, dtype, spilled, barriers, shuffles, loads in lines:
        name = f"{kernel} in {dtype}"
        assert int(spilled) == 0, f"{name} spills {spilled} bytes of registers"
        assert int(barriers) == int(shuffles) == 0, f"{name}: {barriers} barriers, {shuffles} shuffles in its loop"
        # 4096 columns for 256 threads are 16 numbers each.
        assert int(loads) == {"bfloat16": 2, "float32": 4}[dtype], f"{name}: {loads} loads of 16 bytes"
