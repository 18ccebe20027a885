"""The table of tile shapes: every entry gives the right numbers, and every GPU finds one."""

import pytest
import torch

from kernels.attention.arguments import HEAD_DIMS
from kernels.attention.configurations import (
    AMPERE,
    HOPPER,
    INTERPRETER,
    TABLE,
    Case,
    Configuration,
    Tiles,
    chosen,
    trying,
)
from kernels.dispatch import interpreted
from tests.kernels.attention.calls import DEVICE, check, packed, tensors


def runnable() -> list[tuple[Configuration, int, torch.dtype]]:
    """Each configuration once per head dimension: of all GPUs under the interpreter, of this GPU on one."""
    if interpreted():
        return sorted({(entry, case.head_dim, torch.float32) for case, entry in TABLE.items()}, key=repr)
    here = torch.cuda.get_device_capability()
    mine = here if any(case.capability == here for case in TABLE) else AMPERE
    return [(entry, case.head_dim, case.dtype) for case, entry in TABLE.items() if case.capability == mine]


@pytest.mark.parametrize(("configuration", "head_dim", "dtype"), runnable(), ids=str)
def test_every_configuration_gives_the_right_numbers(
    configuration: Configuration, head_dim: int, dtype: torch.dtype
) -> None:
    """139 tokens: more than one of the largest tiles, ragged, with edges of documents on, beside and within tiles."""
    call = tensors(1, 139, 1, 1, head_dim, dtype)
    with trying(configuration):
        check(*call, packed(139, [0, 64, 127]))
        if not interpreted():  # there, one is dear, and test_values covers the shapes
            check(*call)


def test_every_case_of_every_generation_has_an_entry() -> None:
    for capability in (HOPPER, AMPERE):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for head_dim in HEAD_DIMS:
                for documents in (False, True):
                    assert Case(capability, dtype, head_dim, documents) in TABLE
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        assert all(Case(INTERPRETER, dtype, head_dim, True) in TABLE for head_dim in HEAD_DIMS)


def test_an_unknown_gpu_gets_the_careful_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    query = torch.zeros(1, 1, 1, 64, dtype=torch.bfloat16)
    monkeypatch.setattr("kernels.attention.configurations.interpreted", lambda: False)
    for capability, entry in {(9, 0): HOPPER, (8, 9): AMPERE, (12, 0): AMPERE}.items():
        monkeypatch.setattr("kernels.attention.configurations._capability", lambda device, now=capability: now)
        for documents in (False, True):
            assert chosen(query, documents=documents) == TABLE[Case(entry, torch.bfloat16, 64, documents)]


def test_trying_holds_for_the_block_only() -> None:
    tiles = Tiles(16, 16)
    query = torch.zeros(1, 1, 1, 64, dtype=torch.float32, device=DEVICE)
    usual = chosen(query, documents=False)
    with trying(Configuration(tiles, tiles, tiles)):
        assert chosen(query, documents=False).forward is tiles
    assert chosen(query, documents=False) == usual
