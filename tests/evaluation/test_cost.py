"""What work costs: time always, energy where the counters can be read, and never a made-up figure."""

import time
from pathlib import Path

import pytest

from components.evaluation.cost import Meter, measured
from components.evaluation.score_table import Score


def counter(powercap: Path, name: str, micro_joules: int, limit: int = 1_000_000) -> Path:
    folder = powercap / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    (folder / "energy_uj").write_text(f"{micro_joules}\n")
    return folder


def burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        counter(tmp_path, name, 100)
    with Meter(tmp_path) as meter:
        for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
            counter(tmp_path, name, 500_100)
    assert meter.cost.joules == pytest.approx(1.0)


def test_a_counter_that_has_wrapped_goes_on(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", 900_000)
    with Meter(tmp_path) as meter:
        counter(tmp_path, "intel-rapl:0", 99_999)
    assert meter.cost.joules == pytest.approx(0.2)


def test_without_counters_there_is_no_energy_but_cpu_seconds(tmp_path: Path) -> None:
    with Meter(tmp_path / "nothing") as meter:
        burn(0.05)
    assert meter.cost.joules is None
    assert 0.03 < meter.cost.cpu_seconds < 2
    assert meter.cost.seconds > 0


def test_a_counter_that_cannot_be_read_is_no_zero(tmp_path: Path) -> None:
    (counter(tmp_path, "intel-rapl:0", 1) / "energy_uj").unlink()
    with Meter(tmp_path) as meter:
        pass
    assert meter.cost.joules is None


def test_a_piece_brings_its_cost_as_rows(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", 0)
    made = [Score("m", "boolq", "q0", "right", 1.0, tokens=30), Score("m", "boolq", "q1", "right", 0.0, tokens=12)]

    def piece() -> list[Score]:
        counter(tmp_path, "intel-rapl:0", 250_000)
        return made

    scores = measured(piece, "boolq/0", lambda: Meter(tmp_path))()
    assert list(scores[:2]) == made
    costs = {each.metric: each for each in scores[2:]}
    assert costs.keys() == {"cpu_seconds", "joules"}
    assert (costs["joules"].model, costs["joules"].task, costs["joules"].document) == ("m", "boolq", "boolq/0")
    assert (costs["joules"].score, costs["joules"].weight) == (0.25, 0.0)
