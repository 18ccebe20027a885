"""Attention in compiled loops: the formula's values and gradients, the same bits on any number of threads."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.model import ops
from components.model.compiled import attention
from components.model.compiled.attention import compiled_attention
from kernels.dispatch import Implementation, using
from tests.model.test_block_attention import document_starts, exact

LENGTH = 100


def leaves(kv_heads: int, head: int = 16, rows: int = 3, length: int = LENGTH) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query, key, value = (torch.randn(rows, length, heads, head) for heads in (4, kv_heads, kv_heads))
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


@pytest.mark.parametrize("lines", [4, 20, 48, 1000])  # a query; blocks that divide a tile; the default; one block
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("packed", [False, True])
def test_values_and_gradients_are_those_of_the_formula(
    monkeypatch: pytest.MonkeyPatch, lines: int, kv_heads: int, packed: bool
) -> None:
    monkeypatch.setattr(attention, "LINES", lines)
    start = document_starts() if packed else torch.zeros(1, LENGTH, dtype=torch.int32)
    assert_equal_to_formula(leaves(kv_heads), start)


@pytest.mark.parametrize("head", [2, 24, 64, 80])  # less than a panel of columns, and panels that are not full
def test_heads_may_have_any_width(head: int) -> None:
    assert_equal_to_formula(leaves(2, head), document_starts())


def test_rows_may_be_long() -> None:
    start = torch.zeros(1, 1500, dtype=torch.int32)
    start[:, 1111:] = 1111
    assert_equal_to_formula(leaves(1, 8, rows=1, length=1500), start)


def assert_equal_to_formula(inputs: tuple[Tensor, Tensor, Tensor], start: Tensor) -> None:
    upstream = torch.randn_like(inputs[0])
    ours, formula = compiled_attention(*inputs, start), exact(*inputs, ops.attention_mask(start, torch.float32)).float()
    torch.testing.assert_close(ours, formula, atol=2e-6, rtol=2e-6)
    gradients = (torch.autograd.grad(mixed, inputs, upstream) for mixed in (ours, formula))
    for of_ours, of_formula in zip(*gradients, strict=True):
        torch.testing.assert_close(of_ours, of_formula, atol=1e-5, rtol=1e-5)


def bits(inputs: tuple[Tensor, Tensor, Tensor], start: Tensor) -> list[Tensor]:
    mixed = compiled_attention(*inputs, start)
    return [mixed.detach(), *torch.autograd.grad(mixed.square().sum(), inputs)]


@pytest.mark.usefixtures("three_threads")
def test_bits_depend_neither_on_threads_nor_on_other_rows() -> None:
    inputs, start = leaves(2), document_starts()
    on_three = bits(inputs, start)
    torch.set_num_threads(1)
    alone: list[Tensor] = []
    for row in range(3):
        some = tuple(each[row : row + 1].detach().requires_grad_() for each in inputs)
        alone = bits((some[0], some[1], some[2]), start[row : row + 1])
        assert all(torch.equal(one[0], many[row]) for one, many in zip(alone, on_three, strict=True))
    assert all(torch.equal(one, many) for one, many in zip(bits(inputs, start), on_three, strict=True))


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    query, key, value = (each.detach() for each in leaves(4))
    start = torch.zeros(1, LENGTH, dtype=torch.int32)
    mixed = compiled_attention(query * 1e4, key * 1e4, value, start)
    formula = exact(query * 1e4, key * 1e4, value, ops.attention_mask(start, torch.float32)).float()
    torch.testing.assert_close(mixed, formula, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_number_that_is_none_stays_visible(broken: float) -> None:
    query, key, value = (each.detach() for each in leaves(4))
    query[0, 50, 1, 3] = broken
    mixed = compiled_attention(query, key, value, torch.zeros(1, LENGTH, dtype=torch.int32))
    assert mixed[0, 50, 1].isnan().all()
    mixed[0, 50, 1] = 0
    assert mixed.isfinite().all()


@pytest.mark.parametrize("implementation", ["auto", "torch"])
def test_bf16_errs_no_more_than_torchs_own_attention(
    implementation: Implementation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "_has_amx", lambda: False)
    starts, inputs = document_starts(), [each.detach().bfloat16().requires_grad_() for each in leaves(2)]
    with using(implementation), ops.recorded() as taken:
        ours = ops.attention(inputs[0], inputs[1], inputs[2], ops.packed(starts, torch.bfloat16, 16))
    assert taken["attention"] == {"compiled" if implementation == "auto" else "products"}
    assert ours.dtype == torch.bfloat16
    mask = ops.attention_mask(starts, torch.bfloat16)
    query, key, value = (each.transpose(1, 2) for each in inputs)
    torchs = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    upstream, results = torch.randn_like(ours), []
    for mixed in (ours, torchs, exact(inputs[0], inputs[1], inputs[2], mask)):
        gradients = torch.autograd.grad(mixed, inputs, upstream.to(mixed.dtype))
        results.append([each.detach().float() for each in (mixed, *gradients)])
    for of_ours, of_torch, formula in zip(*results, strict=True):
        assert (of_ours - formula).norm() <= 2 * (of_torch - formula).norm()


def test_inputs_may_have_gaps() -> None:
    inputs, start = leaves(2), document_starts()
    apart = [each.detach().transpose(1, 2).contiguous().transpose(1, 2) for each in inputs]
    assert not apart[0].is_contiguous()
    assert torch.equal(compiled_attention(apart[0], apart[1], apart[2], start), compiled_attention(*inputs, start))


def test_the_operators_tell_a_compiler_the_truth() -> None:
    query, key, value = (each.detach() for each in leaves(2))
    arguments = query, key, value, document_starts()
    torch.library.opcheck(torch.ops.lacewing.compiled_attention, arguments)
    _, log_totals = torch.ops.lacewing.compiled_attention(*arguments)
    torch.library.opcheck(torch.ops.lacewing.compiled_attention_backward, (query, *arguments, log_totals))
