"""`lacewing compare A B`: words become settings, finished evaluations are compared, and mistakes are named."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.evaluation.artifacts import Evaluation
from components.evaluation.comparison.artifact import Comparison
from components.evaluation.comparison.stage import stage as compare_stage
from components.evaluation.score_table import Score, table, write_scores
from conf.compose import compose_project
from conf.overrides import list_override, values_of
from conf.services import TrackingConfig
from flows.catalogue import find_flow
from flows.cli import main
from flows.completion import groups
from flows.execution import plan
from flows.options import read_flow_arguments
from flows.plan import Planner
from flows.promotion import Registry
from flows.run import FlowRun, Outcome, StageCall
from flows.stage import contents_of, identity_of
from flows.workspace import artifact_folder
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


class InThisProcess:
    """A ``StageRunner`` that runs the stage here, where no worker has to import anything again."""

    def bring_up_to_date(self, call: StageCall) -> Outcome:
        identity = identity_of(call, contents_of(call.inputs))
        folder = artifact_folder(identity.stage, identity.key)
        inputs = {name: Artifact.open(artifact.folder) for name, artifact in call.inputs.items()}
        artifact = compare_stage(Run.recorded(folder, identity), call.config, **inputs)
        return Outcome(artifact, "ran", "", 0.0)


def test_finished_evaluations_are_compared_in_the_order_of_the_words(
    evaluations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("flows.evaluation.prefect_ui.page", lambda key, page, title: shown.append(page))
    keys = []
    for models in (evaluations, evaluations[::-1]):
        overrides = [list_override("compare.models", models), "compare.resamples=200"]
        run = FlowRun("compare", "world", overrides, compose_project("world", overrides), InThisProcess())
        COMPARE(run)
        keys.append(run.outcomes["compare"].artifact.key)
    assert len(set(keys)) == 2
    assert "large is better on boolq (right), against small" in shown[0]
    assert "small is worse on boolq (right), against large" in shown[1]
    assert Comparison.PAGE in shown[0]


def test_an_artifact_that_is_no_evaluation_and_no_model_is_refused(data: Artifact, evaluations: list[str]) -> None:
    with pytest.raises(InputError, match="artifact of the stage 'prepare', which holds no model"):
        planned(evaluations[0], str(data.folder))


def test_a_reference_that_names_nothing_is_refused(evaluations: list[str], database: Path) -> None:
    with pytest.raises(InputError, match="nothing-like-that"):
        planned(evaluations[0], "nothing-like-that")


def test_a_damaged_evaluation_is_refused(evaluations: list[str]) -> None:
    (Path(evaluations[1]) / Evaluation.SCORES).write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match="damaged"):
        planned(*evaluations)


def test_the_board_lists_every_version_with_what_was_registered(
    make_bundle: Callable[[str], Artifact], database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(TrackingConfig())
    registry.promote(registry.register(make_bundle("a")).number, "better")
    registry.register(make_bundle("b"), {}, {"lacewing.gate": "refuse", "lacewing.gate_reason": "worse | than <b>"})
    shown: list[str] = []
    monkeypatch.setattr("flows.board.prefect_ui.page", lambda key, page, title: shown.append(page))
    run = FlowRun("board", "world", [], compose_project("world", []), Planner())
    find_flow("board")(run)
    newest, oldest = [line for line in shown[0].splitlines() if "1.2500" in line]
    assert newest.startswith("| 2 | challenger | 1.2500 |")
    assert oldest.startswith("| 1 | champion | 1.2500 |")
    page = Path(dict(run.rows)["board"]).read_text()
    assert "worse | than &lt;b&gt;" in page
    assert "src=" not in page
    assert "href=" not in page


def test_the_board_of_an_empty_registry_says_what_to_do(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("flows.board.prefect_ui.page", lambda key, page, title: shown.append(page))
    find_flow("board")(FlowRun("board", "world", [], compose_project("world", []), Planner()))
    assert "lacewing pipeline" in shown[0]


def test_a_dry_run_of_the_board_writes_nothing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(find_flow("board"), "world", [])
    assert "would write" in capsys.readouterr().err
    assert not workspace.exists()
