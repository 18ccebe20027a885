"""`lacewing compare A B`: words become settings, finished evaluations are compared, and mistakes are named."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.artifact import Artifact
from components.core.errors import InputError
from components.evaluation.score_table import Score, table, write_scores
from conf.compose import compose_project
from conf.overrides import list_override, values_of
from flows.catalogue import find_flow
from flows.cli import main
from flows.completion import groups
from flows.execution import execute, plan
from flows.options import read_flow_arguments
from flows.run import FlowRun
from tests.flows.conftest import MakeArtifact

COMPARE = find_flow("compare")


@pytest.fixture
def evaluations(make_artifact: MakeArtifact, tmp_path: Path) -> list[str]:
    """Folders of two finished evaluations; the second model is right more often."""

    def made(name: str, right: Sequence[int]) -> str:
        path = tmp_path / f"{name}.parquet"
        write_scores(path, table(Score(name, "boolq", f"q{n}", "right", float(each)) for n, each in enumerate(right)))
        artifact: Artifact = make_artifact("evaluate", {"scores.parquet": path.read_bytes()})
        return str(artifact.folder)

    return [made("small", [0, 1] * 40), made("large", [1] * 60 + [0, 1] * 10)]


def planned(*words: str) -> FlowRun:
    arguments = read_flow_arguments(words).with_words(COMPARE.words)
    return plan(COMPARE, "world", arguments.overrides)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20), min_size=1, max_size=4))
def test_words_arrive_as_they_were_typed(words: list[str]) -> None:
    assert values_of([list_override("compare.models", words)]) == {"compare": {"models": words}}


def test_words_and_settings_may_be_mixed_and_said_once_only() -> None:
    arguments = read_flow_arguments(["champion", "compare.tasks=[boolq]", "3", "--dry-run"])
    assert arguments.with_words("compare.models").overrides == [
        "compare.models=['champion','3']",
        "compare.tasks=[boolq]",
    ]
    with pytest.raises(InputError, match=r"champion and compare\.models=\[a,b\] say the same thing twice"):
        read_flow_arguments(["champion", "compare.models=[a,b]"]).with_words("compare.models")


def test_a_flow_that_takes_settings_only_refuses_a_word() -> None:
    assert find_flow("prepare").words == ""
    assert main(["prepare", "champion", "--dry-run"]) == InputError.exit_code


def test_a_number_in_the_form_is_a_version() -> None:
    assert compose_project("world", ["compare.models=[champion,3]"]).compare.models == ["champion", "3"]


def test_the_models_are_no_part_of_the_key_but_what_was_evaluated_is() -> None:
    one, other = (compose_project("world", [f"compare.models=[{models}]"]) for models in ("a,b", "c,d"))
    assert one.comparison == other.comparison


@pytest.mark.parametrize(("words", "message"), [
    ([], "needs two models or more, given: none"),
    (["champion"], "given: only 'champion'"),
    (["champion", "champion"], "'champion' is given twice"),
])  # fmt: skip
def test_fewer_than_two_models_are_refused_before_anything_runs(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(*words)


def test_help_and_completion_speak_of_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    assert "usage: lacewing compare MODELS ... [key=value ...]" in capsys.readouterr().out
    (group,) = (each for each in groups(()) if "compare" in each.commands)
    assert {"champion", "challenger", "compare.tasks="} <= set(group.words)
    (plain,) = (each for each in groups(()) if "prepare" in each.commands)
    assert "champion" not in plain.words


def test_a_dry_run_says_that_the_comparison_would_run(
    evaluations: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    planned(*evaluations)
    assert "compare    would run" in capsys.readouterr().err


def test_finished_evaluations_are_compared_and_the_second_time_skipped(evaluations: list[str], database: Path) -> None:
    overrides = [list_override("compare.models", evaluations), "compare.resamples=200"]
    first = execute(COMPARE, "world", overrides)
    assert first["stages"]["compare"]["status"] == "ran"
    assert execute(COMPARE, "world", overrides)["stages"]["compare"]["status"] == "skipped"
    backwards = [list_override("compare.models", evaluations[::-1]), "compare.resamples=200"]
    assert execute(COMPARE, "world", backwards)["stages"]["compare"]["status"] == "ran"
