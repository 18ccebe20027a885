"""The operators as torch sees them: honest fakes, one node in a compiled graph, the same numbers."""

from collections.abc import Callable

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule

from kernels.cross_entropy import cross_entropy, linear, linear_token_stats, op
from tests.kernels.cross_entropy.cases import case, gradients, mixed

BOTH = pytest.mark.parametrize("triton", [False, True], ids=["torch", "triton"])
RULES = (20, 4, -100)
COPIES = {f"aten.{name}.default" for name in ("clone", "copy", "copy_")}
CHECKS = ("test_schema", "test_faketensor")  # autograd is outside the operators


@BOTH
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("k", [0, 3])
def test_the_operators_are_what_they_say(triton: bool, keep: bool, k: int) -> None:
    given = case(5, 20, torch.float32, padding=4)
    x, weight, target = given.x.detach(), given.weight.detach(), given.target
    given_ids = x, weight, target, torch.randint(20, (5, k))
    torch.library.opcheck(op.forward, (*given_ids, *RULES, keep, True, True, triton), test_utils=CHECKS)
    *stats, kept = op.forward(*given_ids, *RULES, keep, False, False, triton)
    backward = op.backward_ if keep and (triton or k) else op.backward
    arguments = (kept, *given_ids, *RULES, *stats[:3], *torch.randn(3, 5), torch.randn(5, k), True, True, triton)
    torch.library.opcheck(backward, arguments, test_utils=CHECKS)


@pytest.mark.parametrize("rows", [0, 5])
def test_backward_of_fp16_is_what_it_says(rows: int) -> None:
    given = case(rows, 20, torch.float16)
    given_ids = given.x.detach(), given.weight.detach(), given.target, torch.randint(20, (rows, 0))
    *stats, kept = op.forward(*given_ids, *RULES, True, False, False, False)
    arguments = (kept, *given_ids, *RULES, *stats[:3], *torch.randn(3, rows), torch.randn(rows, 0), True, True, False)
    torch.library.opcheck(op.backward, arguments, test_utils=CHECKS)


@BOTH
def test_the_operators_on_logits_are_what_they_say(triton: bool) -> None:
    logits, target = torch.randn(5, 20), torch.tensor([0, 19, -100, 4, 4])
    torch.library.opcheck(op.logit_lse, (logits, target, 20, -1, -100, triton), test_utils=CHECKS)
    stats = op.logit_lse(logits, target, 20, -1, -100, triton)
    arguments = (logits, target, 20, -1, -100, *stats, torch.randn(5), triton)
    torch.library.opcheck(op.logit_nll_backward, arguments, test_utils=CHECKS)


@pytest.mark.parametrize(
    ("impl", "mode"), [("torch", "save"), ("triton", "save"), ("triton", "recompute"), (None, "auto")]
)
@pytest.mark.parametrize("k", [None, 3])
def test_a_compiled_graph_is_whole_and_bitwise_the_same(impl: str | None, mode: str, k: int | None) -> None:
    given = case(5, 20, torch.float32)
    chosen = None if k is None else torch.randint(20, (5, k))

    def loss(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        stats = linear_token_stats(x, weight, given.target, call_id=4, chosen=chosen, mode=mode, impl=impl)
        taught = 0.0 if stats.z_chosen is None else stats.z_chosen.sum(1)
        return stats.nll_full - 0.1 * stats.logp_call + taught

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    results = []
    for function in (loss, compiled):
        value = function(given.x, given.weight)
        results.append((value.detach(), *torch.autograd.grad(value.sum(), (given.x, given.weight))))
    for eager, other in zip(*results, strict=True):
        assert torch.equal(eager, other)


def test_cross_entropy_compiles_whole() -> None:
    logits, target = torch.randn(5, 20, requires_grad=True), torch.tensor([0, 19, -100, 4, 4])
    compiled = torch.compile(lambda z: cross_entropy(z, target).sum(), backend="aot_eager", fullgraph=True)
    (mine,) = torch.autograd.grad(compiled(logits), logits)
    (right,) = torch.autograd.grad(cross_entropy(logits, target).sum(), logits)
    assert torch.equal(mine, right)


def backward_graph(loss: Callable[[torch.Tensor], torch.Tensor], leaf: torch.Tensor) -> list[str]:
    """What the compiled backward of ``loss`` calls, in order."""
    called: list[str] = []

    def keep(graph: GraphModule, _: object) -> object:
        called.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph)

    backend = aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph), bw_compiler=keep)
    torch.autograd.grad(torch.compile(loss, backend=backend, fullgraph=True)(leaf), leaf)
    return called


@BOTH
def test_a_compiled_backward_makes_no_pass_of_its_own_over_the_logits(triton: bool) -> None:
    """For an operator that writes to its argument, the compiler copies the argument, before or after: no clone, then,
    and no operator of that kind."""
    impl = "triton" if triton else "torch"
    given, chosen = case(5, 20, torch.float32), torch.randint(20, (5, 3))
    logits, weight = torch.randn(5, 20, requires_grad=True), given.weight.detach()
    losses: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]] = {
        "logit_nll_backward": (lambda z: cross_entropy(z, given.target, impl=impl).sum(), logits),
        "linear_token_stats_backward": (
            lambda x: mixed(
                linear_token_stats(x, weight, given.target, call_id=4, chosen=chosen, mode="save", impl=impl)
            ),
            given.x,
        ),
    }
    for name, (loss, leaf) in losses.items():
        called = backward_graph(loss, leaf)
        assert f"lacewing.{name}.default" in called
        assert not COPIES & set(called)
        assert not [target for target in called if "functionalized" in target]


@pytest.mark.parametrize("k", [0, 3])
def test_the_operator_that_leaves_what_was_kept_alone_gives_what_the_other_gives(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunk by chunk, the last one ragged; and a second time."""
    monkeypatch.setattr(linear, "CHUNK_ROWS", {"cpu": 2, "cuda": 2})
    given, chosen = case(5, 20, torch.float64), torch.randint(20, (5, k))
    x, weight = given.x.detach(), given.weight.detach()
    for triton in (True, False):
        *stats, kept = op.forward(x, weight, given.target, chosen, *RULES, True, False, False, triton)
        upstream = torch.randn(3, 5, dtype=torch.float64), torch.randn(5, k, dtype=torch.float64)
        arguments = (x, weight, given.target, chosen, *RULES, *stats[:3], *upstream[0], upstream[1], True, True, triton)
        before = kept.clone()
        first, second = op.backward(kept, *arguments), op.backward(kept, *arguments)
        assert torch.equal(kept, before)
        for one, two, other in zip(first, second, op.backward_(kept, *arguments), strict=True):
            assert torch.equal(one, two)
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        assert torch.equal(kept, before) == (not linear.spends(chosen, triton))


def test_gradients_of_gradients_are_refused() -> None:
    given = case(4, 20)
    stats = linear_token_stats(*given)
    (g_x,) = torch.autograd.grad(stats.nll_full.sum(), given.x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad|twice"):
        g_x.sum().backward()


def test_gradients_survive_other_backwards() -> None:
    given = case(4, 20)
    one, two = linear_token_stats(*given), linear_token_stats(*given)
    first = gradients(given, one)
    assert all(torch.equal(mine, other) for mine, other in zip(first, gradients(given, two), strict=True))
