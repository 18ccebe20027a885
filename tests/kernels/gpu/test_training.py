"""A model of 124M parameters trained with our kernels and with PyTorch's: the same curve, no recompilation."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from kernels.bench import gpt
from kernels.bench.gpt import GPT, GPT_124M, Parts
from tests.kernels.gpu import NEEDS_GPU

pytestmark = NEEDS_GPU
DEVICE = torch.device("cuda")
STEPS = 200
ROWS = 8
MEAN_DOCUMENT = 256
# bf16 rounds at 2^-8; two orders of summation drift apart with the weights. Means of 20 steps take the noise out.
TOLERANCE = 0.01
WINDOW = 20


def losses(parts: Parts, mean_document: int | None, steps: int) -> Tensor:
    torch.manual_seed(0)
    model = GPT(GPT_124M, parts).to(DEVICE)
    optimizer = gpt.make_optimizer(model)
    batches = [gpt.synthetic_batch(GPT_124M, ROWS, seed, DEVICE, mean_document) for seed in range(32)]
    return torch.stack([gpt.train_step(model, optimizer, batches[step % len(batches)]) for step in range(steps)]).cpu()


@pytest.mark.parametrize("mean_document", [None, MEAN_DOCUMENT], ids=["plain", "documents"])
def test_the_loss_curve_is_that_of_pytorch(mean_document: int | None) -> None:
    ours = losses(gpt.our_parts("triton"), mean_document, STEPS)
    theirs = losses(gpt.torch_parts(), mean_document, STEPS)
    assert theirs[-1] < theirs[0] - 1, "nothing was learned, so nothing is compared"
    assert (ours[0] - theirs[0]).abs() < 1e-3, "the same weights give another loss: not rounding, a mistake"
    means = [curve.unfold(0, WINDOW, WINDOW).mean(1) for curve in (ours, theirs)]
    assert ((means[0] - means[1]).abs() / means[1]).max() < TOLERANCE


def test_compiled_in_one_graph_and_never_again() -> None:
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    model = GPT(GPT_124M, gpt.our_parts("triton")).to(DEVICE)
    compiled: Callable[..., Tensor] = torch.compile(model, fullgraph=True, dynamic=False)
    optimizer = gpt.make_optimizer(model)
    for seed in range(6):  # other documents at every step
        gpt.train_step(compiled, optimizer, gpt.synthetic_batch(GPT_124M, ROWS, seed, DEVICE, MEAN_DOCUMENT))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_a_step_waits_for_nothing() -> None:
    torch.manual_seed(0)
    model = GPT(GPT_124M, gpt.our_parts("triton")).to(DEVICE)
    optimizer = gpt.make_optimizer(model)
    batch = gpt.synthetic_batch(GPT_124M, ROWS, 0, DEVICE, MEAN_DOCUMENT)
    gpt.train_step(model, optimizer, batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        gpt.train_step(model, optimizer, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
