"""The table of scores: pieces are made once, whatever is killed and however many workers share them."""

import multiprocessing
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.errors import ArtifactError
from components.evaluation.score_table import Score, complete, read_scores, rows, table, write_scores

SPAWN = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang or fail
PIECES = [f"task/{number}" for number in range(6)]


def piece(name: str, made: Path, pause: float = 0.0) -> list[Score]:
    with made.open("a") as file:
        file.write(f"{name}\n")
    time.sleep(pause)
    return [Score("m", name, str(each), "right", score=each / 3, detail="é\n") for each in range(3)]


def evaluate(folder: Path, made: Path, pause: float = 0.0) -> pa.Table:
    return complete(folder, {name: lambda name=name: piece(name, made, pause) for name in PIECES})


def test_rows_come_back_in_the_order_of_the_pieces(tmp_path: Path) -> None:
    scores = evaluate(tmp_path / "parts", tmp_path / "made")
    assert rows(scores) == [score for name in PIECES for score in piece(name, tmp_path / "again")]
    assert rows(table(rows(scores))) == rows(scores)


def test_a_killed_evaluation_goes_on_to_the_same_table(tmp_path: Path) -> None:
    undisturbed = evaluate(tmp_path / "whole", tmp_path / "first")
    made = tmp_path / "made"
    made.touch()
    for _ in range(2):
        worker = SPAWN.Process(target=evaluate, args=(tmp_path / "parts", made, 0.2))
        begun = len(made.read_text().split())
        worker.start()
        while len(made.read_text().split()) < begun + 2:  # it has made one, and is at the next
            assert worker.is_alive()
            time.sleep(0.01)
        worker.kill()
        worker.join()
    assert evaluate(tmp_path / "parts", made).equals(undisturbed)
    assert len(made.read_text().split()) <= len(PIECES) + 2, "what was done was done again"


def test_workers_share_an_evaluation_and_make_no_piece_twice(tmp_path: Path) -> None:
    workers = [SPAWN.Process(target=evaluate, args=(tmp_path / "parts", tmp_path / "made", 0.2)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sorted((tmp_path / "made").read_text().split()) == sorted(PIECES)


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"model": ["m"]}), tmp_path / "other.parquet")
    write_scores(tmp_path / "good.parquet", table([Score("m", "t", "0", "right", 1.0)]))
    assert read_scores(tmp_path / "good.parquet").num_rows == 1
    with pytest.raises(ArtifactError, match=r"broken\.parquet is no table of scores"):
        read_scores(tmp_path / "broken.parquet")
    with pytest.raises(ArtifactError, match="it has no column task, document"):
        read_scores(tmp_path / "other.parquet")
