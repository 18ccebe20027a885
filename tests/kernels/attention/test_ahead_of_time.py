"""The real compiler takes the kernels, GPU or not: the interpreter accepts much that it does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels.attention.configurations import HOPPER, TABLE, Case
from kernels.bench.prefilter import SHARED_MEMORY
from kernels.dispatch import interpreted

TENSOR_CORES = [case for case in TABLE if case.capability in SHARED_MEMORY and case.dtype == torch.bfloat16]
"""Fp16 compiles to the same, and fp32 is not for speed."""

pytestmark = [
    pytest.mark.skipif(not interpreted(), reason="where there is a GPU, every test compiles"),
    pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux"),
]


def compile_and_check(case: Case, cache: Path, group: int = 4) -> None:
    arguments = [*map(str, case.capability), str(case.dtype).removeprefix("torch."), str(case.head_dim)]
    arguments += [str(int(case.documents)), str(group)]
    command = [sys.executable, "-m", "kernels.bench.ahead_of_time", *arguments]
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [line[0] for line in lines] == ["_forward", "_grad_query", "_grad_key_value"]
    for name, shared, units, spilled, serialised in lines:
        assert int(shared) <= SHARED_MEMORY[case.capability], name
        if case.capability == HOPPER:
            assert units == "wgmma", f"{name} does not use Hopper's tensor cores"
            assert serialised == "-", f"{name}, {group} heads for a key: ptxas serialises products ({serialised})"
            assert int(spilled) == 0, f"{name} with {group} heads for a key spills {spilled} bytes of registers"


def test_what_pretraining_runs_compiles_for_hopper(tmp_path: Path) -> None:
    compile_and_check(Case(HOPPER, torch.bfloat16, 64, documents=True), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in TENSOR_CORES if case.head_dim >= 64], ids=str)
@pytest.mark.parametrize("group", [*(pytest.param(group, marks=pytest.mark.soak) for group in (1, 2)), 4])
def test_the_table_compiles_for_the_presets(case: Case, group: int, tmp_path: Path) -> None:
    if case.capability != HOPPER and group != 4:
        pytest.skip("only what ptxas says of Hopper depends on the group")
    compile_and_check(case, tmp_path, group)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("case", [case for case in TENSOR_CORES if case.head_dim < 64], ids=str)
def test_the_table_compiles(case: Case, tmp_path: Path) -> None:
    compile_and_check(case, tmp_path)
