"""What people have vouched for is told once, in words, wherever it matters."""

from datetime import UTC, datetime

from components.core.acceptance import Acceptance, accepted_section, joined

FIRST = Acceptance(
    stage="pretrain",
    from_key="a" * 32,
    changes=["code changed: components.training.loader.Windows", "package changed: torch 2.13.0 -> 2.13.1"],
    reason="a message was reworded",
    by="ann",
    time=datetime(2026, 11, 25, tzinfo=UTC),
)
SECOND = FIRST.model_copy(update={"stage": "label", "time": datetime(2026, 11, 26, tzinfo=UTC)})


def test_an_acceptance_says_who_vouched_for_what_when_and_why() -> None:
    assert str(FIRST) == (
        "pretrain accepted on 2026-11-25 by ann: a message was reworded (made before: code changed: "
        "components.training.loader.Windows; package changed: torch 2.13.0 -> 2.13.1)"
    )


def test_what_reaches_an_artifact_by_two_ways_is_told_once_and_oldest_first() -> None:
    assert joined([SECOND], [FIRST, SECOND], [FIRST]) == (FIRST, SECOND)


def test_a_report_has_the_section_only_where_there_is_something_to_say() -> None:
    assert accepted_section([]) == ""
    assert accepted_section([FIRST, SECOND]).count("\n- ") == 2
