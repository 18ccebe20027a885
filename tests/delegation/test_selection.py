import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.delegation.config import SELECTIONS, DelegationConfig
from components.delegation.selection import (
    LOOKS_AT_FACTS,
    LOOKS_AT_HELPER,
    LOOKS_AT_REFERENCE,
    RULES,
    Selection,
    Statistics,
    select,
)

# Ten targets: six facts of which two end (9) or begin (0) a document and so are never touched, four other words.
LOSS = [9.0, 5.0, 1.0, 4.0, 8.0, 2.0, 7.0, 3.0, 0.5, 9.5]
FACT = [1, 1, 1, 1, 0, 1, 0, 0, 0, 1]
ELIGIBLE = [0, 1, 1, 1, 1, 1, 1, 1, 1, 0]
JUDGED = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0]
REFERENCE = [0.0, 4.5, 1.0, 1.0, 7.9, 2.5, 1.0, 3.0, 0.5, 0.0]
HELPER = [0.0, 6.0, 0.5, 0.0, 9.0, 0.0, 6.0, 4.0, 0.0, 0.0]


def bits(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


def example(**changes: object) -> Statistics:
    values: dict[str, object] = {
        "loss": torch.tensor(LOSS),
        "factual": bits(FACT),
        "valid": torch.ones(10, dtype=torch.bool),
        "eligible": bits(ELIGIBLE),
        "judged": bits(JUDGED),
        "reference_loss": torch.tensor(REFERENCE),
        "helper_right": bits([1, 0, 1, 1, 0, 1, 0, 0, 0, 1]),
        "helper_loss": torch.tensor(HELPER),
    }
    return Statistics(**{**values, **changes})  # type: ignore[arg-type]


def selected(selection: str, stats: Statistics | None = None, seed: int = 0, **settings: object) -> Selection:
    config = DelegationConfig.model_validate({"selection": selection, **settings})
    return select(stats or example(), config, torch.Generator().manual_seed(seed))


def rows(mask: torch.Tensor) -> list[int]:
    return mask.nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("selection", "budget", "delegated"),
    [
        ("ntp", 0.3, []),
        ("loss", 0.3, [4, 6, 1]),
        ("lacy", 0.3, [1, 3, 5]),
        ("lacy", 0.2, [1, 3]),
        ("lacy", 1.0, [1, 2, 3, 5]),  # no more than there are facts
        ("rho_call", 0.2, [4, 1]),  # of the four highest losses 4, 6, 1, 3, where the reference is hardly better
        ("judge", 0.3, [2, 5, 1]),  # both judged ones, then the fact of highest loss
        ("judge", 0.1, [5]),  # the judged one of higher loss
        ("helper_gain", 0.2, [3, 5]),  # gains 4 and 2; the next are 1, 0.5 and 0.5
        ("helper_gain", 1.0, [2, 3, 5, 6, 8]),  # nothing that the helper does worse
        ("defer", 0.1, [2, 3, 5]),  # all that the helper has right, whatever the budget
        ("rho_ignore", 0.3, []),
        ("ignore", 0.3, []),
        ("ignore_facts", 0.3, []),
    ],
)
def test_each_selection_delegates_what_its_definition_says(selection: str, budget: float, delegated: list[int]) -> None:
    assert rows(selected(selection, budget=budget).delegated) == sorted(delegated)


@pytest.mark.parametrize(
    ("selection", "budget", "dropped"),
    [
        ("rho_ignore", 0.3, [5, 2, 7]),  # excess -0.5, 0, 0 (and 0 for row 8, which comes later)
        ("ignore", 0.3, [1, 3, 5]),
        ("ignore_facts", 0.1, [1, 2, 3, 5]),
        ("lacy", 0.3, []),
        ("defer", 0.3, []),
    ],
)
def test_each_selection_drops_what_its_definition_says(selection: str, budget: float, dropped: list[int]) -> None:
    chosen = selected(selection, budget=budget)
    assert rows(chosen.dropped) == sorted(dropped)
    gone = set() if selection == "defer" else {*dropped, *rows(chosen.delegated)}
    assert rows(chosen.learned) == [row for row in range(10) if row not in gone]


def test_fact_and_random_draw_from_their_own_candidates_and_repeat_with_the_same_generator() -> None:
    draws = {name: [rows(selected(name, seed=seed, budget=0.3).delegated) for seed in range(40)] for name in
             ("fact", "random")}  # fmt: skip
    assert {row for draw in draws["fact"] for row in draw} == {1, 2, 3, 5}
    assert {row for draw in draws["random"] for row in draw} == set(range(1, 9))
    assert all(len(draw) == 3 for name in draws for draw in draws[name])
    for name in draws:
        assert rows(selected(name, seed=7, budget=0.3).delegated) == draws[name][7]


def test_only_fact_and_random_draw_from_the_generator() -> None:
    for name in SELECTIONS:
        generator = torch.Generator().manual_seed(5)
        select(example(), DelegationConfig(selection=name), generator)
        untouched = torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())
        assert untouched == (name not in ("fact", "random")), name


def test_a_fraction_of_the_facts_counts_the_facts_that_may_be_chosen() -> None:
    assert rows(selected("lacy", budget_of="facts", fraction_of_facts=0.5).delegated) == [1, 3]
    assert rows(selected("lacy", budget_of="facts", fraction_of_facts=1.0).delegated) == [1, 2, 3, 5]
    assert len(rows(selected("fact", budget_of="facts", fraction_of_facts=0.75).delegated)) == 3


def test_equal_losses_go_to_the_earlier_token() -> None:
    stats = example(loss=torch.ones(10))
    assert rows(selected("loss", stats, budget=0.3).delegated) == [1, 2, 3]


@pytest.mark.parametrize(
    ("selection", "missing"),
    [("judge", "judged"), ("rho_call", "reference_loss"), ("rho_ignore", "reference_loss"),
     ("helper_gain", "helper_loss"), ("defer", "helper_right")],
)  # fmt: skip
def test_what_a_selection_looks_at_must_be_there(selection: str, missing: str) -> None:
    with pytest.raises(ValueError, match=f"{selection} looks at {missing}"):
        selected(selection, example(**{missing: None}))


def test_the_sets_name_what_the_rules_use() -> None:
    assert set(RULES) == set(SELECTIONS)
    bare = {"judged": None, "reference_loss": None, "helper_right": None, "helper_loss": None}
    for name in SELECTIONS:
        fails = name in LOOKS_AT_REFERENCE | LOOKS_AT_HELPER | {"judge"}
        if fails:
            with pytest.raises(ValueError, match="looks at"):
                selected(name, example(**bare))
        else:
            selected(name, example(**bare))
        nobody = example(factual=torch.zeros(10, dtype=torch.bool), judged=torch.zeros(10, dtype=torch.bool))
        chosen = selected(name, nobody, budget=0.5)
        if name in LOOKS_AT_FACTS:
            assert not (chosen.delegated | chosen.dropped).any(), name


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    percent=st.integers(0, 100),
    name=st.sampled_from(SELECTIONS),
    of=st.sampled_from(["tokens", "facts"]),
)
def test_any_selection_keeps_to_its_budget_its_candidates_and_the_eligible_tokens(
    data: st.DataObject, percent: int, name: str, of: str
) -> None:
    size, budget = data.draw(st.integers(0, 40)), percent / 100
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))

    def mask() -> torch.Tensor:
        return torch.rand(size, generator=generator) < 0.6

    def losses() -> torch.Tensor:
        return torch.randint(0, 5, (size,), generator=generator).float()  # many ties

    valid = mask()
    stats = Statistics(losses(), mask() & valid, valid, mask() & valid, mask() & valid, losses(), mask(), losses())
    fields = {"selection": name, "budget": budget, "budget_of": of, "fraction_of_facts": budget}
    chosen = select(stats, DelegationConfig.model_validate(fields), generator)

    delegated, dropped, learned = chosen
    assert not ((delegated | dropped) & ~stats.eligible).any()
    assert not (delegated & dropped).any()
    if name == "defer":
        assert torch.equal(learned, valid)
        return
    assert torch.equal(learned, valid & ~delegated & ~dropped)
    base = valid.sum().item() if of == "tokens" else (stats.factual & stats.eligible).sum().item()
    taken = (delegated | dropped).sum().item()
    if name in ("lacy", "fact", "ignore"):
        assert not ((delegated | dropped) & ~stats.factual).any()
        assert taken == min(round(budget * base), (stats.eligible & stats.factual).sum().item())
    if name in ("loss", "random", "rho_call", "rho_ignore"):
        assert taken == min(round(budget * base), stats.eligible.sum().item())
    if name == "lacy" and taken > 0:
        kept = stats.eligible & stats.factual & ~delegated
        assert stats.loss[delegated].min() >= stats.loss[kept].max() if kept.any() else True


def test_a_selection_carries_no_gradient_and_reads_losses_as_they_are() -> None:
    loss = torch.tensor(LOSS, requires_grad=True)
    chosen = selected("lacy", example(loss=loss))
    assert not any(mask.requires_grad for mask in chosen)
    infinite = torch.where(bits(FACT), 0.0, math.inf)  # a fact table knows nothing of other tokens
    assert rows(selected("helper_gain", example(helper_loss=infinite), budget=1.0).delegated) == [1, 2, 3, 5]


def test_there_are_twelve() -> None:
    from components.delegation.config import SelectionName

    assert len(RULES) == len(get_args(SelectionName)) == 12
