"""The closing table is what the stages say of themselves; a refusal comes first."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from prefect import flow
from prefect.client.schemas.objects import State

from components.core.identity import RecordedIdentity
from components.core.run import Run
from conf.schema import ProjectConfig
from flows.adapters.prefect_ui import markdown_table
from flows.plan import Planner
from flows.run import FlowRun, Outcome, Release
from flows.summary import finished
from flows.workspace import make_workspace


@pytest.fixture
def run(workspace: Path) -> FlowRun:
    make_workspace()
    return FlowRun("pipeline", "world", [], ProjectConfig(), Planner())


@pytest.fixture
def ended(tmp_path: Path) -> Callable[..., Outcome]:
    """What became of a stage that sealed these rows."""

    def end(
        stage: str, key: str, *rows: tuple[str, str], metrics: Mapping[str, float] = MappingProxyType({"loss": 1.0})
    ) -> Outcome:
        identity = RecordedIdentity(stage=stage, key=key * 32, config={}, inputs={}, code={}, environment={})
        artifact = Run.recorded(tmp_path / stage / key, identity).seal(dict(metrics), rows=rows)
        return Outcome(artifact, "ran", "first run", 1.0)

    return end


def closing(run: FlowRun) -> State[object]:
    @flow(name="closing")
    def close() -> object:
        return finished(run, "in MLflow")

    state: State[object] = close(return_state=True)
    return state


def test_rows_of_the_flow_come_first_then_those_of_the_stages_in_order(
    run: FlowRun, ended: Callable[..., Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    run.rows.append(("data version", "abc"))
    run.outcomes["prepare"] = ended("prepare", "a", ("training text", "7 documents"))
    run.outcomes["pretrain"] = ended("pretrain", "b", ("loss", "2.500"))
    closing(run)
    shown = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert shown[:4] == ["data version", "training text", "pretraining: loss", "stages"]


def test_both_trainings_say_their_tokens_and_losses_by_name(
    run: FlowRun, ended: Callable[..., Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {"tokens": 1000.0, "tokens_per_second": 50.0, "loss": 2.0, "validation_loss": 3.0}
    rows = [("tokens trained on", "1,000 at 50 tokens/s"), ("loss", "2.000 training, 3.000 validation")]
    run.outcomes["pretrain"] = ended("pretrain", "a", *rows, metrics=metrics)
    run.outcomes["delegate"] = ended("delegate", "b", ("learnt to ask for", "15 %"), metrics=metrics)
    closing(run)
    cells = [[cell.strip() for cell in line.split("│")[1:3]] for line in capsys.readouterr().out.splitlines()]
    shown = {row[0]: row[1] for row in cells if len(row) == 2}
    for training in ("pretraining", "delegation"):
        assert shown[f"{training}: tokens trained on"] == "1,000 at 50 tokens/s"
        assert shown[f"{training}: loss"] == "2.000 training, 3.000 validation"
    assert shown["delegation: learnt to ask for"] == "15 %"
    assert not {"loss", "tokens trained on"} & shown.keys()


def test_no_variant_speaks_for_its_stage(
    run: FlowRun, ended: Callable[..., Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    run.outcomes["pretrain lacy-0"] = ended("pretrain", "b", ("loss", "2.500"))
    closing(run)
    assert "2.500" not in capsys.readouterr().out


def test_a_refusal_stands_at_the_top(
    run: FlowRun, ended: Callable[..., Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    run.outcomes["prepare"] = ended("prepare", "a", ("training text", "7 documents"))
    run.release = Release("lacewing", 2, "challenger", False, "worse by 0.1")
    summary = closing(run).result()
    shown = [line.split("│")[1:3] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [cell.strip() for cell in shown[0]] == ["refused", "worse by 0.1"]
    assert isinstance(summary, dict)
    assert summary["release"] == {
        "model": "lacewing",
        "version": 2,
        "alias": "challenger",
        "promoted": False,
        "reason": "worse by 0.1",
    }
    assert summary["stages"]["prepare"]["key"] == "a" * 32


def test_a_table_in_prefect_breaks_long_values_and_links_addresses() -> None:
    reason = "the challenger is worse by 1.0125 bits per byte (95 % interval +0.9963 to +1.0289; 2.5894 against 1.5768)"
    lines = markdown_table([("a", reason), ("b", "http://127.0.0.1:5000/#/experiments/1"), ("c", "x | y")]).splitlines()
    assert max(map(len, lines[2].split("<br>"))) < 100
    assert lines[2].replace("<br>", " ") == f"| **a** | {reason} |"
    assert lines[3] == "| **b** | [http://127.0.0.1:5000/#/experiments/1](http://127.0.0.1:5000/#/experiments/1) |"
    assert lines[4] == "| **c** | x \\| y |"
