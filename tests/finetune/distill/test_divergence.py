"""The divergences against those of whole distributions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.finetune.distill.divergence import SMALLEST_REST, divergence, with_rest
from components.finetune.distill.teach import top_tokens

KINDS = ("forward", "reverse", "js")


def whole(teacher: torch.Tensor, student: torch.Tensor, kind: str, share: float) -> torch.Tensor:
    """By the definition, over all tokens."""
    one, other = teacher.exp(), student.exp()
    middle = (share * one + (1 - share) * other).log()
    return {
        "forward": (one * (teacher - student)).sum(1),
        "reverse": (other * (student - teacher)).sum(1),
        "js": share * (one * (teacher - middle)).sum(1) + (1 - share) * (other * (student - middle)).sum(1),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_with_all_tokens_but_one_it_is_the_divergence_itself(kind: str) -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 5, 12, dtype=torch.float64).log_softmax(-1)
    found = divergence(teacher[:, :-1], student[:, :-1], kind, 0.3)  # type: ignore[arg-type]
    torch.testing.assert_close(found, whole(teacher, student, kind, 0.3))


@given(st.integers(0, 1000), st.integers(1, 11), st.sampled_from(KINDS))
def test_fewer_tokens_never_see_more_of_a_difference(seed: int, k: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, 4, 12, dtype=torch.float64, generator=generator).log_softmax(-1)
    coarse = divergence(teacher[:, :k], student[:, :k], kind)  # type: ignore[arg-type]
    assert (coarse >= -1e-9).all()
    assert (coarse <= whole(teacher, student, kind, 0.5) + 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_that_is_certain_leaves_the_numbers_finite(kind: str) -> None:
    teacher = torch.tensor([[0.0, -16.0]])  # float16 rounds the sum above one
    student = torch.zeros(1, 3).log_softmax(-1)[:, :2].requires_grad_()
    found = divergence(teacher, student, kind)  # type: ignore[arg-type]
    found.sum().backward()
    assert found.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert with_rest(teacher)[0, -1].exp() == pytest.approx(SMALLEST_REST)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_gradient_is_that_of_the_value(kind: str, temperature: float) -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 4, 9, dtype=torch.float64).log_softmax(-1)[:, :, :5]
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda given: divergence(teacher, given, kind, 0.3, temperature), student)  # type: ignore[arg-type]


def test_a_temperature_softens_both_and_the_bucket_with_them() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 4, 9, dtype=torch.float64).log_softmax(-1)
    soft = [(logs / 2).log_softmax(-1) for logs in (teacher, student)]
    found = divergence(teacher[:, :-1], student[:, :-1], "forward", temperature=2.0)
    torch.testing.assert_close(found, whole(*soft, "forward", 0.5))


def test_the_teacher_never_expects_a_call() -> None:
    logits = torch.tensor([[1.0, 2.0, 9.0, 3.0]])
    ids, logprobs = top_tokens(logits, 2, call_id=2)
    assert ids.tolist() == [[3, 1]]
    torch.testing.assert_close(logprobs, torch.tensor([[1.0, 2.0, 3.0]]).log_softmax(-1)[:, [2, 1]])
