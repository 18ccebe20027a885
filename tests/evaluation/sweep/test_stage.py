from pathlib import Path

import pytest
from pydantic import ValidationError

from components.core.errors import InputError
from components.core.run import Run
from components.evaluation.seeds import seed_interval
from components.evaluation.sweep.config import SweepConfig, SweepReportConfig, Trial
from components.evaluation.sweep.stage import stage

TRIALS = [
    Trial(number=0, settings={"a": 1, "b": "x"}, state="complete", value=2.0, curve={10: 3.0, 20: 2.0}),
    Trial(number=1, settings={"a": 2, "b": "y"}, state="stopped", value=1.0, curve={10: 1.0}),
    Trial(number=2, settings={"a": 3, "b": "z"}, state="complete", value=1.5, curve={10: 2.5, 20: 1.5}),
    Trial(number=3, settings={"a": 4, "b": "z"}, state="failed", value=None, curve={}),
]


def report(**values: object) -> SweepReportConfig:
    given = {"metric": "loss", "better": "lower", "confidence": 0.95, "trials": TRIALS, "seeds": {}, **values}
    return SweepReportConfig.model_validate(given)


def test_the_best_is_a_whole_trial_in_the_direction_that_is_wanted() -> None:
    assert report().best.number == 2
    assert report(better="higher").best.number == 0


def test_the_report_names_the_best_setting_and_its_interval_over_seeds(tmp_path: Path) -> None:
    found = stage(Run.local(tmp_path, "sweep"), report(seeds={0: 1.5, 1: 1.7, 2: 1.6}))
    interval = seed_interval([1.5, 1.7, 1.6], 0.95)
    assert found.metrics == {
        "best": 1.5, "trials": 4, "stopped": 1, "seeds_mean": interval.estimate,
        "seeds_half_interval": interval.high - interval.estimate,
    }  # fmt: skip
    assert found.details["settings"] == {"a": 3, "b": "z"}
    text = found.report.read_text()
    assert "Of 4 settings, 1 were stopped early and 1 failed. The best is a=3, b=z: loss 1.5000." in text
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert rows[:4] == ["| 2", "| 0", "| 1", "| 3"]
    assert "<svg" in found.page.read_text()


def test_a_sweep_without_a_whole_trial_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the 2 trials came to its end"):
        stage(Run.local(tmp_path, "sweep"), report(trials=[TRIALS[1], TRIALS[3]]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": [{"key": "a"}]}, "a needs either values, or low and high"),
        ({"space": [{"key": "a", "values": [1], "low": 1, "high": 2}]}, "a needs either values, or low and high"),
        ({"space": [{"key": "a", "low": 1}]}, "a needs either values, or low and high"),
        ({"space": [{"key": "a", "low": 2, "high": 1}]}, "low=2 must be below high=1"),
        ({"space": [{"key": "a", "low": 0, "high": 1, "log": True}]}, "above 0 with log=true"),
        ({"space": [{"key": "a", "values": [1]}] * 2}, "space holds a key twice: a, a"),
        ({"space": [{"key": "trainer.seed", "values": [1]}]}, "trainer.seed is tried by space and varied by seeds"),
        ({"seeds": [1, 1]}, "seeds must each be there once"),
    ],
)
def test_a_space_that_cannot_be_tried_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SweepConfig.model_validate(settings)
