"""What `lacewing study` runs: every combination once, each with a configuration of its own."""

from conf.compose import compose_project
from flows.study import combinations


def test_every_selection_is_trained_with_every_seed_and_both_ways_of_being_fair() -> None:
    config = compose_project(
        "world",
        ["study.selections=[ntp,lacy]", "study.match=[steps,gradient_tokens]", "study.seeds=[3,5]"],
    )
    runs = dict(combinations(config))
    assert len(runs) == 8
    one = runs["lacy-gradient_tokens-5"]
    assert (one.delegation.selection, one.delegation.match, one.trainer.seed) == ("lacy", "gradient_tokens", 5)
    assert one.delegate.delegation.selection == "lacy"
    assert all(run.data == config.data for run in runs.values())


def test_the_name_says_no_more_than_what_differs() -> None:
    config = compose_project("world", ["study.selections=[lacy]", "study.seeds=[0,1]"])
    assert [name for name, _ in combinations(config)] == ["lacy-0", "lacy-1"]
