"""What must hold of any input, looked for by Hypothesis."""

import pytest
import torch

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.cross_entropy import linear_token_stats, reference
from tests.kernels.cross_entropy.cases import IGNORED, case, gradients, outputs

sweep = settings(max_examples=20, deadline=None, derandomize=True, database=None)


@sweep
@given(st.data())
@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_any_shape_any_target_any_call(impl: str, data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 4), "rows")
    columns = data.draw(st.sampled_from([2, 3, 17, 31, 64, 129]), "columns")
    padding = data.draw(st.sampled_from([0, 1, 7]), "padding")
    inputs = case(rows, columns, padding=padding, width=data.draw(st.integers(1, 5), "width"), seed=rows + columns)
    some = st.one_of(st.just(IGNORED), st.integers(0, columns - 1))
    inputs = inputs._replace(
        target=torch.tensor(data.draw(st.lists(some, min_size=rows, max_size=rows)), dtype=torch.long)
    )
    options = {
        "call_id": data.draw(st.one_of(st.none(), st.integers(0, columns - 1)), "call_id"),
        "n_cols": columns,
    }
    mode = data.draw(st.sampled_from(["save", "recompute"]), "mode")
    ours = linear_token_stats(*inputs, **options, mode=mode, impl=impl)
    right = reference.linear_token_stats(*inputs, **options)
    for mine, theirs in zip(outputs(ours), outputs(right), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11)
    for mine, theirs in zip(gradients(inputs, ours), gradients(inputs, right), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@sweep
@given(
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_probabilities_are_probabilities(impl: str, scale: float, dtype: torch.dtype, seed: int) -> None:
    inputs = case(4, 40, dtype, seed=seed)
    target = inputs.target.masked_fill(inputs.target == 6, 7)
    with torch.no_grad():
        stats = linear_token_stats(scale * inputs.x, inputs.weight, target, call_id=6, impl=impl, return_entropy=True)
    slack = 1e-6 * float(stats.lse_full.abs().max() + 1)
    assert (stats.nll_excl >= -slack).all()
    assert (stats.nll_full >= stats.nll_excl).all()
    assert (stats.logp_call <= 0).all()
    counted = ~stats.ignored
    assert (((-stats.nll_full).exp() + stats.logp_call.exp())[counted] <= 1 + slack).all()
    assert (stats.nll_full[stats.ignored] == 0).all()
    assert stats.entropy is not None
    assert (stats.entropy >= -slack).all()
    assert (stats.entropy <= torch.log(torch.tensor(39.0)) + slack).all()
