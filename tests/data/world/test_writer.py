"""The three files: same seed same bytes, whole or not at all, and memory for the facts only."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from pydantic import ValidationError

from components.data.world.config import WorldConfig
from components.data.world.writer import DOCUMENTS, FACTS, QUESTIONS, write_world
from tests.data.world.conftest import read_back

FILES = (DOCUMENTS, FACTS, QUESTIONS)


def written(folder: Path, cfg: WorldConfig) -> list[bytes]:
    write_world(cfg, folder)
    return [(folder / name).read_bytes() for name in FILES]


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    """Another process, with another hash seed: nothing may hang on the order of a set."""
    cfg = WorldConfig(seed=7, entities=60)
    here = written(tmp_path / "here", cfg)
    program = (
        "import sys; from pathlib import Path; from components.data.world.config import WorldConfig;"
        "from components.data.world.writer import write_world;"
        "write_world(WorldConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", program, cfg.model_dump_json(), str(tmp_path / "there")],
        check=True,
        env={"PYTHONHASHSEED": "123", "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert here == [(tmp_path / "there" / name).read_bytes() for name in FILES]


def test_another_seed_gives_another_world(tmp_path: Path) -> None:
    write_world(WorldConfig(seed=1, entities=200), tmp_path / "1")
    write_world(WorldConfig(seed=2, entities=200), tmp_path / "2")
    one, other = (read_back(tmp_path / seed) for seed in "12")
    assert not {fact["subject"] for fact in one.facts.values()} & {fact["subject"] for fact in other.facts.values()}
    assert not {row["text"] for row in one.documents} & {row["text"] for row in other.documents}


def test_memory_does_not_grow_with_the_number_of_documents(tmp_path: Path) -> None:
    peaks = []
    for documents_per_entity in (1, 2, 40):  # the first run also loads the patterns
        tracemalloc.start()
        write_world(WorldConfig(entities=60, documents_per_entity=documents_per_entity), tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (tmp_path / DOCUMENTS).stat().st_size > 1_000_000
    assert peaks[2] < peaks[1] + 200_000, peaks


def test_memory_per_entity_is_small(tmp_path: Path) -> None:
    peaks = []
    for entities in (20, 100, 1000):
        tracemalloc.start()
        write_world(WorldConfig(entities=entities, documents_per_entity=1), tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[2] - peaks[1]) / 900 < 8000, peaks


def test_progress_is_reported_from_beginning_to_end(tmp_path: Path) -> None:
    heard: list[tuple[float, str]] = []
    write_world(WorldConfig(entities=200), tmp_path, report=lambda fraction, message: heard.append((fraction, message)))
    fractions = [fraction for fraction, _ in heard]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert 30 <= len(heard) <= 60
    assert all(message for _, message in heard)


def test_an_interrupted_write_leaves_no_half_file(tmp_path: Path) -> None:
    def stop(fraction: float, message: str) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_world(WorldConfig(entities=100), tmp_path, report=stop)
    assert [path.name for path in tmp_path.iterdir()] == [FACTS]


@pytest.mark.parametrize(
    "wrong",
    [
        {"entities": 19},
        {"entities": 2_000_000},
        {"seed": -1},
        {"documents_per_entity": 0.5},
        {"zipf_exponent": -0.1},
        {"zipf_exponent": 3},
        {"questions": 0},
        {"entity": 100},
        {"entities": "many"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        WorldConfig.model_validate(wrong)
