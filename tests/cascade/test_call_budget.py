import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.cascade.call_budget import CallBudget
from components.core.errors import InputError


@given(
    budget=st.floats(0, 1),
    max_tokens=st.integers(1, 5000),
    max_calls=st.none() | st.integers(0, 100),
    wishes=st.integers(0, 300),
)
def test_the_limit_is_never_exceeded_and_never_withheld(
    budget: float, max_tokens: int, max_calls: int | None, wishes: int
) -> None:
    limit = CallBudget.of(budget, max_tokens, max_calls)
    taken = sum(limit.take() for _ in range(wishes))
    allowed = min(math.floor(budget * max_tokens), math.inf if max_calls is None else max_calls)
    assert taken == limit.spent == min(wishes, allowed)


@pytest.mark.parametrize("budget", [-0.1, 1.01, 15.0, math.nan])
def test_a_budget_that_is_no_share_is_refused(budget: float) -> None:
    with pytest.raises(InputError, match=r"is not a share: give 0 \(never\) to 1"):
        CallBudget.of(budget, 100)


def test_a_negative_number_of_calls_is_refused() -> None:
    with pytest.raises(InputError, match="max_calls is -1"):
        CallBudget.of(0.5, 100, -1)
