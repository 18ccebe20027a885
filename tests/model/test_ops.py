import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.model import ops


def plain_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ weight.T).float(), targets, reduction="none", ignore_index=-100)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, document_start: Tensor | None) -> Tensor:
    group = query.shape[2] // key.shape[2]
    query, key, value = (
        query.transpose(1, 2),
        key.repeat_interleave(group, 2).transpose(1, 2),
        value.repeat_interleave(group, 2).transpose(1, 2),
    )
    seq, keys = query.shape[2], key.shape[2]
    at = torch.arange(keys)
    visible = at[None, None, :] <= at[None, keys - seq :, None]
    if document_start is not None:
        visible = visible & (at[None, None, :] >= document_start[:, :, None])
    scores = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).masked_fill(~visible[:, None], float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("kept_bytes", [2**31, 0], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("rows", "width", "vocab"), [(307, 33, 123), (1, 8, 5), (100, 16, 64), (201, 7, 252)])
def test_cross_entropy_equals_the_plain_one_in_value_and_gradients(
    monkeypatch: pytest.MonkeyPatch, kept_bytes: int, rows: int, width: int, vocab: int
) -> None:
    monkeypatch.setattr(ops, "CHUNK_ROWS", 100)
    monkeypatch.setattr(ops, "KEPT_PROBABILITIES_BYTES", kept_bytes)
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, width), torch.randn(vocab, width)
    targets = torch.randint(0, vocab, (rows,))
    targets[1::7] = -100
    upstream = torch.rand(rows)
    results = []
    for implementation in (ops.linear_cross_entropy, plain_cross_entropy):
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        nll = implementation(*leaves, targets)
        (nll * upstream).sum().backward()
        results.append((nll.detach(), leaves[0].grad, leaves[1].grad))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-5, rtol=2e-5)
    assert (results[0][0][1::7] == 0).all()


def test_cross_entropy_survives_certain_and_impossible_targets() -> None:
    hidden = torch.tensor([[100.0], [100.0]], requires_grad=True)
    weight = torch.tensor([[10.0], [-10.0]], requires_grad=True)
    nll = ops.linear_cross_entropy(hidden, weight, torch.tensor([0, 1]))
    assert nll.tolist() == [0.0, 2000.0]
    nll.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert hidden.grad[0].abs().item() == 0.0


def test_cross_entropy_in_bf16_errs_no_more_than_plain_torch_in_bf16() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(300, 64), torch.randn(200, 64) * 0.3, torch.randint(0, 200, (300,))

    def gradients(implementation, autocast: bool) -> list[Tensor]:  # type: ignore[no-untyped-def]
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            nll = implementation(*leaves, targets)
        nll.mean().backward()
        return [nll.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    exact = gradients(plain_cross_entropy, autocast=False)
    ours = gradients(ops.linear_cross_entropy, autocast=True)
    torchs = gradients(plain_cross_entropy, autocast=True)
    for name, e, o, t in zip(("nll", "hidden", "weight"), exact, ours, torchs, strict=True):
        assert o.dtype == torch.float32
        assert (o - e).norm() <= 1.5 * (t - e).norm(), name


def test_cross_entropy_never_holds_more_than_a_chunk_of_logits_without_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    largest = 0

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    monkeypatch.setattr(ops, "CHUNK_ROWS", 128)
    hidden, weight, targets = torch.randn(1024, 8), torch.randn(300, 8), torch.randint(0, 300, (1024,))
    with torch.no_grad(), Spy():
        ops.linear_cross_entropy(hidden, weight, targets)
    assert largest == 128 * 300


@settings(max_examples=40, deadline=None)
@given(
    seq=st.integers(1, 40),
    earlier=st.integers(0, 20),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    cuts=st.lists(st.integers(1, 39), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_attention_equals_the_plain_formula(
    seq: int, earlier: int, heads: tuple[int, int], cuts: list[int], dtype: torch.dtype
) -> None:
    torch.manual_seed(seq)
    document_start = None
    if cuts:  # documents and a cache exclude each other
        earlier = 0
        starts = torch.zeros(2, seq, dtype=torch.long)
        for cut in sorted(cuts):
            starts[1, cut:] = cut
        document_start = starts.minimum(torch.arange(seq))
    query = torch.randn(2, seq, heads[0], 8)
    key, value = (torch.randn(2, earlier + seq, heads[1], 8) for _ in range(2))
    narrow = [tensor.to(dtype) for tensor in (query, key, value)]
    ours = ops.attention(*narrow, document_start=document_start)
    plain = plain_attention(*(tensor.float() for tensor in narrow), document_start)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), plain, atol=tolerance, rtol=tolerance)


def test_attention_by_products_has_the_gradients_of_the_flash_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 32, heads, 16) for heads in (4, 2, 2)]
    starts = torch.zeros(2, 32, dtype=torch.long)
    starts[:, 10:] = 10
    upstream = torch.randn(2, 32, 4, 16)
    gradients = []
    for dtype, keys in ((torch.float32, 0), (torch.bfloat16, 0), (torch.bfloat16, 384)):
        monkeypatch.setattr(ops, "PRODUCTS_ATTENTION_KEYS", keys)
        narrow = [leaf.to(dtype, copy=True).requires_grad_() for leaf in leaves]
        ops.attention(*narrow, document_start=starts).backward(upstream.to(dtype))
        gradients.append([leaf.grad.float() for leaf in narrow if leaf.grad is not None])
    for exact, flash, products in zip(*gradients, strict=True):
        assert (products - exact).norm() <= 2 * (flash - exact).norm()


def test_fp32_attention_uses_the_flash_kernel_with_documents_and_grouped_queries() -> None:
    query, key, value = (torch.randn(2, 64, heads, 16) for heads in (4, 2, 2))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ops.attention(query, key, value, document_start=torch.zeros(2, 64, dtype=torch.long))
    names = {event.key for event in profile.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert "aten::repeat_interleave" not in names


def test_the_record_names_an_implementation_for_every_operation() -> None:
    assert set(ops.chosen()) == {"attention", "linear_cross_entropy"}
