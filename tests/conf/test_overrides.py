"""Overrides are read and checked by our own rules, with the same grammar for every command."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import InputError
from conf.compose import compose_project, compose_section, runs_to_check
from conf.nearest import nearest
from conf.overrides import MAX_NESTING, Allowed, check, check_sweep, values_of
from conf.schema import ServeCommandConfig, UpConfig

ALLOWED = Allowed(["a", "a.b", "a.c"], {"size": ["small", "large"]})


def test_values_are_nested_by_their_dots_and_the_last_one_counts() -> None:
    assert values_of(["a.b=1", "a.c=[x,'y z']", "a.b=2"]) == {"a": {"b": 2, "c": ["x", "y z"]}}


@pytest.mark.parametrize("override", ["size=large,small", "size=large,tiny", "a.b=choice(1,2)", "a.b=range(1,3)"])
def test_several_values_are_a_sweep_and_need_its_option(override: str) -> None:
    with pytest.raises(InputError, match="add --multirun"):
        check([override], ALLOWED)


def test_a_sweep_says_what_every_override_stands_for() -> None:
    assert check_sweep(["size=large,small", "a.b=range(1,4)", "a.c='1,2'"], ALLOWED) == [
        ["size=large", "size=small"],
        ["a.b=1", "a.b=2", "a.b=3"],
        ["a.c='1,2'"],
    ]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["a.b=range(0,1000000000)"], "more than 1000 values"),
        (["a.b=range(0,100)", "a.c=range(0,100)"], "at most 1,000 runs"),
        (["a.b=interval(0,1)"], "no separate values"),
        (["size=glob(*)"], "write them out"),
        (["size=large,tiny"], "unknown size 'tiny'"),
        (["a.d=1,2"], "unknown key 'a.d'"),
    ],
)
def test_a_sweep_that_cannot_be_run_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_sweep(overrides, ALLOWED)


def test_every_value_of_a_sweep_is_checked_without_running_through_all_combinations() -> None:
    assert list(runs_to_check(["trainer.seed=1,2,3", "model=quick,10m"])) == [
        ["trainer.seed=1", "model=quick"],
        ["trainer.seed=2", "model=quick"],
        ["trainer.seed=3", "model=quick"],
        ["trainer.seed=1", "model=10m"],
    ]


@pytest.mark.parametrize("bracket", ["[", "{", "int("])
def test_deep_brackets_are_refused_in_our_words(bracket: str) -> None:
    for override in ("data.text_field=" + bracket * 900, "data.text_field=" + bracket * (MAX_NESTING + 1)):
        with pytest.raises(InputError, match=f"{MAX_NESTING} allowed"):
            compose_project("world", [override])


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("[]{}()'\"\\,:=ab1 ~!&*@%#\n\t\0é-|>?"), max_size=30))
def test_no_value_raises_anything_but_our_own_error(value: str) -> None:
    for schema, override in ((ServeCommandConfig, f"host={value}"), (UpConfig, f"prefect_port={value}")):
        with suppress(InputError):
            compose_section(schema, [override])


def test_the_nearest_name_may_be_the_last_part_of_a_key() -> None:
    assert nearest("max_step", ["trainer.max_steps", "trainer.seed"]) == ["trainer.max_steps"]
    assert nearest("pipelin", ["pipeline", "prepare"]) == ["pipeline"]
    assert nearest("xyz", ["pipeline", "prepare"]) == []
