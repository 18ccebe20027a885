"""What `lacewing sweep` runs, what it stops, and that a killed sweep goes on with the trials that it had."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from components.core.artifact import Artifact
from components.core.errors import InputError
from components.core.run import Run
from components.evaluation.sweep.stage import stage as report_stage
from components.training.config import PretrainConfig
from components.training.trained import TrainedModel
from conf.compose import compose_project
from conf.schema import ProjectConfig
from flows.adapters.optuna_study import OptunaStudy
from flows.run import FlowRun, Outcome, StageCall
from flows.sweep import study_name, sweep_settings

Loss = Callable[[float, int], float]


def distance(rate: float, step: int) -> float:
    """The loss of a training whose best learning rate is 0.01; it falls with the steps."""
    return abs(rate - 0.01) * 100 + 1 / step


@dataclass
class MadeUp:
    """Runs no stage: pretraining goes over ten steps and has ``loss`` after each; everything else is empty."""

    folder: Path
    loss: Loss = distance
    pretrained: list[PretrainConfig] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def bring_up_to_date(self, call: StageCall) -> Outcome:
        run = Run.local(self.folder / call.title.replace(" ", "-"), call.stage.name)
        if call.stage.name == "sweep":
            return self._made(report_stage(run, call.config))  # type: ignore[arg-type]
        if not isinstance(call.config, PretrainConfig):
            return self._made(run.seal({}))
        self.pretrained.append(call.config)
        self.steps.append(0)
        rows = []
        for step in range(1, 11):
            rows.append({"step": step, "validation_loss": self.loss(call.config.trainer.learning_rate, step)})
            self.steps[-1] = step
            call.watch("pretrain", {"step": step, "metrics": {"validation_loss": rows[-1]["validation_loss"]}})
        (run.folder / TrainedModel.HISTORY).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return self._made(run.seal({"validation_loss": rows[-1]["validation_loss"]}))

    def _made(self, artifact: Artifact) -> Outcome:
        return Outcome(artifact, "ran", "", 0.0)


@pytest.fixture(autouse=True)
def _no_prefect(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> None:
    monkeypatch.setattr("flows.sweep.show_report", lambda *_: None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra takes half a second for every trial: without it."""
    monkeypatch.setattr("flows.start.compose_project", composed)


def composed(preset: str, overrides: Sequence[str]) -> ProjectConfig:
    values = compose_project(preset).model_dump(mode="json")
    for override in overrides:
        key, _, value = override.partition("=")
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[name] = yaml.safe_load(value.replace(":", ": ").replace(",", ", "))
    return ProjectConfig.model_validate(values)


def run_of(runner: MadeUp, *overrides: str) -> FlowRun:
    given = ["sweep.space=[{key:trainer.learning_rate,low:0.001,high:0.1,log:true}]", "sweep.seeds=[]", *overrides]
    return FlowRun("sweep", "world", given, composed("world", given), runner)


def swept(runner: MadeUp, *overrides: str) -> Artifact:
    made = sweep_settings(run_of(runner, *overrides))
    assert made is not None
    return made


@pytest.mark.usefixtures("quick")
def test_worse_trials_are_stopped_and_the_best_setting_is_run_with_every_seed(tmp_path: Path) -> None:
    runner = MadeUp(tmp_path)
    made = swept(runner, "sweep.trials=8", "sweep.startup_trials=2", "sweep.seeds=[4,5]")
    assert made.metrics["trials"] == 8
    stopped = [steps for steps in runner.steps[:8] if steps < 10]
    assert len(stopped) == made.metrics["stopped"] > 0
    best = made.details["settings"]["trainer.learning_rate"]
    assert abs(best - 0.01) == min(abs(each.trainer.learning_rate - 0.01) for each in runner.pretrained[:8])
    assert [each.trainer.seed for each in runner.pretrained[8:]] == [4, 5]
    assert {each.trainer.learning_rate for each in runner.pretrained[8:]} == {best}
    assert made.metrics["seeds_mean"] == made.metrics["best"]


@pytest.mark.usefixtures("quick")
def test_without_a_pruner_none_is_stopped_and_the_best_may_be_the_highest(tmp_path: Path) -> None:
    runner = MadeUp(tmp_path)
    made = swept(runner, "sweep.trials=6", "sweep.pruner=none", "sweep.better=higher")
    assert runner.steps == [10] * 6
    rates = [each.trainer.learning_rate for each in runner.pretrained]
    assert made.metrics["best"] == max(distance(rate, 10) for rate in rates)


def test_a_list_of_values_is_tried_and_reaches_the_stage(tmp_path: Path) -> None:
    runner = MadeUp(tmp_path)
    swept(
        runner,
        "sweep.space=[{key:trainer.optimizer,values:[adamw,muon]},{key:model.layers,values:[1,2]}]",
        "sweep.trials=4",
        "trainer.seed=3",
    )
    tried = {(each.trainer.optimizer, each.model.layers) for each in runner.pretrained}
    assert len(tried) > 1
    assert {each.trainer.seed for each in runner.pretrained} == {3}
    assert tried <= {(optimizer, layers) for optimizer in ("adamw", "muon") for layers in (1, 2)}


@pytest.mark.usefixtures("quick")
def test_a_killed_sweep_goes_on_with_the_interrupted_trial_and_one_with_more_trials_adds_to_them(
    tmp_path: Path,
) -> None:
    class KilledError(BaseException):
        pass

    def dies(rate: float, step: int) -> float:
        if len(killed.pretrained) == 3 and step == 5:
            raise KilledError
        return distance(rate, step)

    killed = MadeUp(tmp_path / "killed", dies)
    with pytest.raises(KilledError):
        swept(killed, "sweep.trials=4")
    resumed = MadeUp(tmp_path / "resumed")
    made = swept(resumed, "sweep.trials=4")
    assert made.metrics["trials"] == 4
    assert len(resumed.pretrained) == 2
    assert resumed.pretrained[0] == killed.pretrained[2]  # the same setting, so its training resumes
    more = MadeUp(tmp_path / "more")
    assert swept(more, "sweep.trials=6").metrics["trials"] == 6
    assert len(more.pretrained) == 2


def test_a_killed_and_resumed_sweep_tries_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    config = run_of(MadeUp(tmp_path)).config.sweep
    tried = []
    for name, parts in (("whole", [5]), ("parts", [2, 5])):
        for count in parts:
            study = OptunaStudy(tmp_path / name, config.model_copy(update={"trials": count, "pruner": "none"}))
            for trial in study.waiting():
                rate = trial.settings["trainer.learning_rate"]
                assert isinstance(rate, float)
                trial.complete(distance(rate, 10))
        tried.append([trial.settings for trial in study.trials()])
    assert tried[0] == tried[1]


@pytest.mark.usefixtures("quick")
def test_a_trial_that_fails_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    def diverges(rate: float, step: int) -> float:
        if rate > 0.02:
            raise InputError("the loss became nan")
        return distance(rate, step)

    runner = MadeUp(tmp_path, diverges)
    made = swept(runner, "sweep.trials=8", "sweep.pruner=none")
    failed = sum(each.trainer.learning_rate > 0.02 for each in runner.pretrained)
    assert 0 < failed < 8
    assert made.metrics["trials"] == 8
    assert f"{failed} failed" in made.report.read_text()


@pytest.mark.usefixtures("quick")
def test_mistakes_are_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sweep.space is empty: say what to try, for example"):
        swept(MadeUp(tmp_path), "sweep.space=[]")
    with pytest.raises(InputError, match="none of the 2 trials came to its end"):
        swept(MadeUp(tmp_path), "sweep.metric=nonsense", "sweep.trials=2")


def test_another_space_is_another_study_and_more_trials_are_not(tmp_path: Path) -> None:
    runner = MadeUp(tmp_path)
    name = study_name(run_of(runner))
    assert study_name(run_of(runner, "sweep.trials=99", "sweep.seeds=[7]")) == name
    assert study_name(run_of(runner, "sweep.space=[{key:trainer.learning_rate,values:[0.001]}]")) != name
    assert study_name(run_of(runner, "trainer.max_steps=7")) != name
