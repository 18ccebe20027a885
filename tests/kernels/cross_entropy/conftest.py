"""These tests run the Triton kernels on CPU tensors, in the interpreter; ``tests/kernels/gpu`` runs them on a GPU."""

import pytest
import torch

from kernels.dispatch import interpreted


@pytest.fixture(autouse=True)
def in_the_interpreter() -> None:
    torch.manual_seed(0)
    if not interpreted():
        pytest.skip("TRITON_INTERPRET=1 is off, as it must be beside a GPU")
