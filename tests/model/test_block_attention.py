import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.model import block_attention, ops

LENGTH, HEAD = 100, 16


def leaves(kv_heads: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, LENGTH, heads, HEAD, dtype=dtype) for heads in (4, kv_heads, kv_heads))
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def document_starts() -> Tensor:
    """One document; two of which the first ends within a block; several shorter than a block."""
    starts = torch.zeros(3, LENGTH, dtype=torch.int32)
    starts[1, 55:] = 55
    for start in (3, 20, 32, 33, 70, 99):
        starts[2, start:] = start
    return starts


def exact(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    group = query.shape[2] // key.shape[2]
    query, key, value = (
        each.double().transpose(1, 2).repeat_interleave(times, 1)
        for each, times in ((query, 1), (key, group), (value, group))
    )
    mixed: Tensor = (query @ key.mT / query.shape[-1] ** 0.5 + mask).softmax(-1) @ value
    return mixed.transpose(1, 2)


@pytest.mark.parametrize("rows", [1, 2, 8])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("packed", [False, True])
def test_values_and_gradients_are_those_of_the_formula(
    monkeypatch: pytest.MonkeyPatch, rows: int, kv_heads: int, packed: bool
) -> None:
    monkeypatch.setattr(block_attention, "BLOCK_QUERIES", {torch.float32: 32})
    monkeypatch.setattr(block_attention, "_rows_at_once", lambda: rows)
    start = document_starts() if packed else torch.zeros(1, LENGTH, dtype=torch.int32)
    mask, inputs = ops.attention_mask(start, torch.float32), leaves(kv_heads)
    upstream = torch.randn(3, LENGTH, 4, HEAD)
    ours, formula = block_attention.block_attention(*inputs, start, mask), exact(*inputs, mask).float()
    torch.testing.assert_close(ours, formula, atol=2e-6, rtol=2e-6)
    gradients = (torch.autograd.grad(mixed, inputs, upstream) for mixed in (ours, formula))
    for of_ours, of_formula in zip(*gradients, strict=True):
        torch.testing.assert_close(of_ours, of_formula, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(block_attention.block_attention(*inputs, start, mask), ours)


def test_bf16_errs_no_more_than_torchs_own_attention() -> None:
    start = document_starts()
    mask, inputs = ops.attention_mask(start, torch.bfloat16), leaves(2, torch.bfloat16)
    upstream = torch.randn(3, LENGTH, 4, HEAD).bfloat16()
    query, key, value = (each.transpose(1, 2) for each in inputs)
    torchs = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    results = []
    for mixed in (block_attention.block_attention(*inputs, start, mask), torchs, exact(*inputs, mask)):
        gradients = torch.autograd.grad(mixed, inputs, upstream.to(mixed.dtype))
        results.append([each.detach().float() for each in (mixed, *gradients)])
    for ours, theirs, formula in zip(*results, strict=True):
        assert (ours - formula).norm() <= 2 * (theirs - formula).norm()


def test_products_leave_out_earlier_documents_and_later_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_attention, "BLOCK_QUERIES", {torch.float32: 32})
    monkeypatch.setattr(block_attention, "_rows_at_once", lambda: 1)
    query, key, value = (each.detach() for each in leaves(1))
    starts = document_starts()
    read = []
    product = torch.bmm

    def watched(scores: Tensor, values: Tensor, **options: Tensor) -> Tensor:
        read.append(values.shape[1])
        return product(scores, values, **options)

    monkeypatch.setattr(torch, "bmm", watched)
    block_attention.block_attention(query, key, value, starts, ops.attention_mask(starts, torch.float32))
    assert read == [32, 64, 96, 100, 32, 64, 96 - 55, 100 - 55, 32, 64 - 32, 96 - 33, 100 - 70]


def test_the_operators_tell_a_compiler_the_truth() -> None:
    query, key, value = (each.detach() for each in leaves(2))
    start = document_starts()
    arguments = query, key, value, start, ops.attention_mask(start, torch.float32), 32, 2
    torch.library.opcheck(torch.ops.lacewing.block_attention, (*arguments, False))
    # With documents a part of the room for probabilities is never written, so its values cannot be compared.
    told = "test_schema", "test_faketensor"
    torch.library.opcheck(torch.ops.lacewing.block_attention, (*arguments, True), test_utils=told)
    _, probabilities = torch.ops.lacewing.block_attention(*arguments, True)
    torch.library.opcheck(torch.ops.lacewing.block_attention_backward, (query, probabilities, *arguments))
