"""Bad input is refused by name, with what was given and what is allowed; odd but lawful input is computed."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import dispatch
from kernels.attention import HEAD_DIMS, attention, obstacle
from kernels.dispatch import using
from tests.kernels.attention.calls import DEVICE, NAMES, check, packed, reference, results, tensors

Call = dict[str, Any]


def call(**changes: Any) -> Call:
    query, key, value, _ = tensors(2, 8, 4, 2, 16, torch.float32)
    return {"query": query.detach(), "key": key.detach(), "value": value.detach(), **changes}


def bound(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=DEVICE)


REFUSED: dict[str, tuple[Callable[[], Call], str]] = {
    "dtype": (
        lambda: {name: tensor.int() for name, tensor in call().items()},
        r"query is torch.int32; allowed are torch.bfloat16, torch.float16, torch.float32, torch.float64",
    ),
    "dtypes mixed": (
        lambda: call(value=call()["value"].half()),
        r"value is torch.float16 and query is torch.float32; allowed is one dtype",
    ),
    "devices mixed": (
        lambda: call(key=call()["key"].to("meta")),
        rf"key is on meta and query on {DEVICE}.*; allowed is one device",
    ),
    "last dimension strided": (
        lambda: call(key=torch.zeros(2, 8, 2, 32, device=DEVICE)[..., ::2]),
        r"key has stride 2 in its last dimension; allowed is 1",
    ),
    "heads no multiple": (
        lambda: call(query=torch.zeros(2, 8, 3, 16, device=DEVICE)),
        r"query has 3 heads and key 2; allowed is a multiple of key's",
    ),
    "no heads": (
        lambda: call(key=torch.zeros(2, 8, 0, 16, device=DEVICE), value=torch.zeros(2, 8, 0, 16, device=DEVICE)),
        r"query has 4 heads and key 0; allowed is a multiple of key's, and at least one",
    ),
    "three dimensions": (
        lambda: call(query=torch.zeros(2, 8, 64, device=DEVICE)),
        r"query has shape \[2, 8, 64\]; allowed is \[B, T, H, D\]",
    ),
    "key of another length": (
        lambda: call(key=torch.zeros(2, 9, 2, 16, device=DEVICE)),
        r"key has shape \[2, 9, 2, 16\]; allowed beside query \[2, 8, 4, 16\] is \[2, 8, KV, 16\]",
    ),
    "value unlike key": (
        lambda: call(value=torch.zeros(2, 8, 1, 16, device=DEVICE)),
        r"value has shape \[2, 8, 1, 16\]; allowed is that of key, \[2, 8, 2, 16\]",
    ),
    "head dimension 0": (
        lambda: {name: tensor[..., :0] for name, tensor in call().items()},
        r"query has head dimension 0; allowed is at least 1",
    ),
    "scale 0": (lambda: call(scale=0.0), r"scale is 0.0; allowed is a positive finite number"),
    "scale negative": (lambda: call(scale=-1.0), r"scale is -1.0; allowed"),
    "scale not a number": (lambda: call(scale=float("nan")), r"scale is nan; allowed"),
    "doc_end alone": (
        lambda: call(doc_end=bound(2, 8)),
        r"doc_end is given without doc_start; allowed are both, doc_start alone, or neither",
    ),
    "doc_start of another shape": (
        lambda: call(doc_start=bound(8)),
        r"doc_start has shape \[8\]; allowed is \[B, T\] = \[2, 8\]",
    ),
    "doc_start of another dtype": (
        lambda: call(doc_start=bound(2, 8, dtype=torch.bool)),
        r"doc_start is torch.bool; allowed are torch.int32 and torch.int64",
    ),
    "doc_start elsewhere": (
        lambda: call(doc_start=bound(2, 8).to("meta")),
        rf"doc_start is on meta and query on {DEVICE}.*; allowed is one device",
    ),
    "doc_end of another shape": (
        lambda: call(doc_start=bound(2, 8), doc_end=bound(2, 9)),
        r"doc_end has shape \[2, 9\]; allowed is \[B, T\] = \[2, 8\]",
    ),
}


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_refused_by_name(arguments: Callable[[], Call], message: str, impl: Any) -> None:
    with pytest.raises(ValueError, match=message):
        attention(**arguments(), impl=impl)


@pytest.mark.skipif(DEVICE != "cpu", reason="on the GPU, looking at values would wait for it")
@pytest.mark.parametrize(
    ("starts", "ends", "name"),
    [
        ([0, 0, 3, 3], None, "doc_start"),  # the third token's document starts after it
        ([0, 1, 0, 0], None, "doc_start"),  # a document goes on after another
        ([-1, -1, -1, -1], None, "doc_start"),
        ([0, 0, 2, 2], [4, 4, 4, 4], "doc_end"),
        ([0, 0, 2, 2], [1, 1, 3, 3], "doc_end"),  # inclusive
    ],
)
def test_bounds_that_no_documents_have_are_refused(starts: list[int], ends: list[int] | None, name: str) -> None:
    query, key, value, _ = tensors(1, 4, 1, 1, 16, torch.float32)
    doc_end = None if ends is None else torch.tensor([ends])
    with pytest.raises(ValueError, match=rf"{name} does .*; allowed is"):
        attention(query, key, value, torch.tensor([starts]), doc_end)


def test_bounds_that_are_wrong_on_a_gpu_read_nothing_outside_and_give_no_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.attention.arguments._check_values", lambda doc_start, doc_end: None)
    *call, grad = tensors(1, 40, 1, 1, 16, torch.float32)
    for wild in (-(2**30), 2**30):
        bound = torch.full((1, 40), wild, dtype=torch.int32, device=DEVICE)
        assert all(result.isfinite().all() for result in results(*call, grad, (bound, bound)))


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_bounds_may_be_int64_and_the_ends_left_out(impl: str) -> None:
    arguments = tensors(2, 20, 2, 1, 16, torch.float32)
    doc_start, doc_end = packed(20, [0, 3], [0, 19])
    assert doc_start is not None
    assert doc_end is not None
    wanted = results(*arguments, (doc_start, doc_end), impl)
    for bounds in ((doc_start.long(), doc_end.long()), (doc_start, None)):
        for name, ours, same in zip(NAMES, results(*arguments, bounds, impl), wanted, strict=True):  # type: ignore[arg-type]
            assert torch.equal(ours, same), name


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(("batch", "length"), [(0, 4), (2, 0)])
@pytest.mark.parametrize("documents", [False, True])
def test_an_empty_batch_gives_empty_results_and_gradients(batch: int, length: int, documents: bool, impl: str) -> None:
    arguments = tensors(batch, length, 4, 2, 16, torch.float32)
    bounds = (bound(batch, length), bound(batch, length)) if documents else (None, None)
    out, *grads = results(*arguments, bounds, impl)
    assert out.shape == (batch, length, 4, 16)
    assert [grad.shape for grad in grads] == [tensor.shape for tensor in arguments[:3]]


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_one_token_attends_to_itself(impl: str) -> None:
    query, key, value, _ = tensors(2, 1, 4, 2, 16, torch.float32)
    out = attention(query, key, value, *packed(1, [0], [0]), impl=impl)  # type: ignore[arg-type]
    assert torch.equal(out, value.repeat_interleave(2, dim=2))


def test_a_head_dimension_without_a_kernel_is_refused_by_name_and_otherwise_left_to_pytorch() -> None:
    arguments = tensors(1, 8, 2, 1, 24, torch.float32)
    reason = r"attention has no kernel for head dimension 24 \(there are kernels for 16, 32, 64, 128\)"
    assert obstacle(*arguments[:3]) is not None
    with pytest.raises(ValueError, match=reason):
        attention(*arguments[:3], impl="triton")
    with using("triton"), pytest.raises(ValueError, match=reason):
        attention(*arguments[:3])
    out = attention(*arguments[:3])
    torch.testing.assert_close(out, reference(*arguments)[0])


def test_every_head_dimension_of_the_list_has_no_obstacle() -> None:
    for head_dim in HEAD_DIMS:
        assert obstacle(torch.zeros(1, 1, 1, head_dim, device=DEVICE)) is None


def test_passing_triton_by_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As on a machine with a GPU, where ``auto`` would take Triton if it had a kernel or a reason."""
    from kernels import attention as package

    seen: list[str] = []
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr("kernels.attention.arguments.unavailable", lambda device: None)
    monkeypatch.setattr(dispatch, "unavailable", lambda device: None)
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    dispatch.say_once.cache_clear()
    caplog.set_level(logging.WARNING)
    for dtype, head_dim, short, documents in [
        (torch.bfloat16, 24, False, True),
        (torch.bfloat16, 24, False, True),
        (torch.float32, 64, False, True),
        (torch.bfloat16, 64, True, True),
        (torch.bfloat16, 64, False, False),
        (torch.bfloat16, 64, False, True),
    ]:
        seen.append(package._computes(None, gpu, dtype, head_dim, short, documents))
    assert seen == ["torch"] * 5 + ["triton"]
    assert package._computes("triton", gpu, torch.float32, 64, True, False) == "triton"  # by name: no opinion asked
    assert [record.message.split("attention ")[1][:12] for record in caplog.records] == [
        "has no kerne",
        "in float32 d",
        "over fewer t",
        "without docu",
    ]


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_autocast_decides_the_dtype_as_for_pytorchs_own(impl: Any) -> None:
    query, key, value, grad = tensors(1, 16, 2, 1, 16, torch.float32)
    with torch.autocast(DEVICE, torch.bfloat16):
        out = attention(query, key.half(), value, impl=impl)  # a mixture, as norms and products under autocast give
    assert out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out, (query, value), grad.bfloat16())
    assert {tensor.dtype for tensor in grads} == {torch.float32}


def test_shared_heads_by_stride_zero_are_lawful() -> None:
    query, key, value, grad = tensors(1, 20, 4, 1, 16, torch.float32)
    wide = [tensor.detach().expand(1, 20, 4, 16).requires_grad_() for tensor in (key, value)]
    check(query, *wide, grad)
