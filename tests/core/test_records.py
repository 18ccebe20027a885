"""Damaged records are refused by name, never half read."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from components.core.errors import ArtifactError
from components.core.records import read_lines, read_record


class Point(BaseModel):
    x: int


def test_a_record_reads_back(tmp_path: Path) -> None:
    (tmp_path / "point.json").write_text('{"x": 3}')
    assert read_record(tmp_path / "point.json", Point, "a point") == Point(x=3)


@pytest.mark.parametrize("content", ["", "{", '{"x": "three"}', "[]"])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "point.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"point\.json cannot be read as a point"):
        read_record(tmp_path / "point.json", Point, "a point")


def test_the_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    path.write_text('{"x": 1}\n{"x": 2}\n')
    assert read_lines(path, Point, "a point") == [Point(x=1), Point(x=2)]
    path.write_text('{"x": 1}\n{"x": \n')
    with pytest.raises(ArtifactError, match=r"points\.jsonl, line 2 cannot be read as a point"):
        read_lines(path, Point, "a point")
