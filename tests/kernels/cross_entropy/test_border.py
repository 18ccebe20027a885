"""Every mistake of a caller that can be seen gets a sentence: the argument, what was given, what is allowed."""

from typing import Any

import pytest
import torch

from kernels.cross_entropy import cross_entropy, linear_token_stats

X, WEIGHT, TARGET = torch.randn(4, 8), torch.randn(20, 8), torch.tensor([0, 19, -100, 3])
ONE = torch.ones(4, 2, dtype=torch.long)

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "dtype of x": ({"x": X.int()}, r"x is torch.int32; allowed are torch.bfloat16, .*torch.float64"),
    "dtype of weight": ({"weight": WEIGHT.to(torch.complex64)}, r"weight is torch.complex64; allowed are"),
    "dtype of target": ({"target": TARGET.float()}, r"target is torch.float32; allowed are torch.int64, torch.int32"),
    "device of weight": ({"weight": WEIGHT.to("meta")}, r"weight is on meta and x on cpu; they must be on one device"),
    "device of target": ({"target": TARGET.to("meta")}, r"target is on meta and x on cpu; they must be on one device"),
    "shape of target": ({"target": TARGET[:3]}, r"target has shape \(3,\); allowed is .*x.*, \(4,\)"),
    "shape of weight": ({"weight": WEIGHT.T}, r"weight has shape \(8, 20\); allowed is \[vocabulary, 8\]"),
    "no column": ({"weight": WEIGHT[:0]}, r"weight has shape \(0, 8\); allowed is"),
    "target too large": ({"target": TARGET + 1}, r"target holds 20; allowed is 0 to 19, or ignore_index -100"),
    "target negative": ({"target": TARGET - 1}, r"target holds -1; allowed is 0 to 19"),
    "target in the padding": ({"n_cols": 19}, r"target holds 19; allowed is 0 to 18"),
    "call too large": ({"call_id": 20}, r"call_id is 20; allowed is 0 to 19"),
    "call negative": ({"call_id": -1}, r"call_id is -1; allowed is 0 to 19"),
    "call in the padding": ({"call_id": 19, "n_cols": 19}, r"call_id is 19; allowed is 0 to 18"),
    "nothing but call": ({"call_id": 0, "n_cols": 1}, r"call_id is 0 in a vocabulary of 1"),
    "no real column": ({"n_cols": 0}, r"n_cols is 0; allowed is 1 to 20"),
    "more real columns than rows": ({"n_cols": 21}, r"n_cols is 21; allowed is 1 to 20"),
    "shape of chosen": ({"chosen": TARGET}, r"chosen has shape \(4,\); allowed is that of target and .*, \(4, k\)"),
    "dtype of chosen": ({"chosen": torch.ones(4, 2)}, r"chosen is torch.float32; allowed are torch.int64, torch.int32"),
    "device of chosen": ({"chosen": ONE.to("meta")}, r"chosen is on meta and target on cpu"),
    "chosen too large": ({"chosen": 20 * ONE}, r"chosen holds 20; allowed is 0 to 19"),
    "chosen negative": ({"chosen": -ONE}, r"chosen holds -1; allowed is 0 to 19"),
    "chosen in the padding": ({"chosen": 18 * ONE, "n_cols": 18, "target": TARGET.clamp(max=3)}, r"chosen holds 18"),
    "impl": ({"impl": "cuda"}, r"impl is 'cuda'; allowed are auto, torch, triton"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake: str) -> None:
    changed, sentence = MISTAKES[mistake]
    arguments = {"x": X, "weight": WEIGHT, "target": TARGET} | changed
    with pytest.raises(ValueError, match=sentence):
        linear_token_stats(**arguments)


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match="mode is 'fast'; allowed are auto, save, recompute"):
        linear_token_stats(X.clone().requires_grad_(), WEIGHT, TARGET, mode="fast")  # type: ignore[arg-type]


def test_mistakes_with_given_logits_are_named() -> None:
    with pytest.raises(ValueError, match=r"logits is torch.int64; allowed are"):
        cross_entropy(torch.ones(4, 20, dtype=torch.long), TARGET)
    with pytest.raises(ValueError, match=r"target has shape \(3,\); allowed is that of logits"):
        cross_entropy(torch.ones(4, 20), TARGET[:3])
    with pytest.raises(ValueError, match=r"logits have shape \(4, 0\); allowed is at least one column"):
        cross_entropy(torch.ones(4, 0), TARGET)
    with pytest.raises(ValueError, match=r"target holds 19; allowed is 0 to 9"):
        cross_entropy(torch.ones(4, 10), TARGET)
    assert cross_entropy(torch.ones(0, 20), TARGET[:0]).shape == (0,)
