import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.errors import InputError
from components.core.run import Run
from components.data.config import DataConfig
from components.data.prepare import stage as prepare_stage
from components.data.prepared import PreparedData
from components.data.world.config import WorldConfig
from components.finetune.classify.config import LabelledTextsConfig
from components.finetune.classify.labelled import LabelledText, check_labels, label_set
from components.finetune.classify.reading import read_texts
from components.finetune.classify.sources import fingerprint

ROWS = [{"text": "by the sea, and far", "label": "boats"}, {"text": "flour\nand salt", "label": "bread"}]


def read(path: Path, prepared: PreparedData, **settings: object) -> list[tuple[str, list[str]]]:
    config = LabelledTextsConfig.model_validate({"train": [str(path)], **settings})
    return [(row.text, row.labels) for row in read_texts(config.train, config, prepared)]


def test_every_format_gives_the_same_texts(prepared: PreparedData, tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(lines.encode()))
    with (tmp_path / "c.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["label", "text"])
        table.writeheader()
        table.writerows(ROWS)
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress((tmp_path / "c.csv").read_bytes()))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "e.parquet")
    expected = [(row["text"], [row["label"]]) for row in ROWS]
    for name in ("a.jsonl", "b.ndjson.gz", "c.csv", "d.csv.gz", "e.parquet"):
        assert read(tmp_path / name, prepared) == expected, name


def test_several_labels_come_as_a_list_or_separated(prepared: PreparedData, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"t": "x", "l": ["b", "a", "b"]}\n{"t": "y", "l": []}\n')
    (tmp_path / "b.csv").write_text('t,l\nx,b|a\ny,""\n')
    for name in ("a.jsonl", "b.csv"):
        found = read(tmp_path / name, prepared, kind="multi", text_field="t", label_field="l")
        assert found == [("x", ["b", "a"]), ("y", [])], name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x"}', r"a.jsonl, line 2 has no field 'label' among \['text'\]: set label_field"),
        ('{"label": "x"}', "line 2 has no field 'text'"),
        ('{"text": " ", "label": "x"}', "line 2 has an empty text"),
        ('{"text": "x", "label": ["a", "b"]}', "line 2 has a list of labels, .* set kind=multi"),
        ('{"text": "x", "label": 1.5}', "line 2 has 1.5 for a label"),
        ('{"text": "x", "label": ""}', "line 2 has '' for a label"),
        ('{"text": "x"', "line 2 is not JSON"),
        ("[1]", "line 2 is list, not an object"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(prepared: PreparedData, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.jsonl", prepared)


def test_damaged_files_and_other_formats_are_refused(prepared: PreparedData, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 1000)[:-20])
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "\xff"}\n')
    for name in ("a.jsonl.gz", "b.parquet", "c.jsonl"):
        with pytest.raises(InputError, match=f"{name} is damaged, or not what its name says|no field"):
            read(tmp_path / name, prepared)
    with pytest.raises(InputError, match=r"no file matches .*rows.jsonl"):
        fingerprint([str(tmp_path / "rows.jsonl")])
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(InputError, match=r"its name must end in .jsonl"):
        fingerprint([str(tmp_path / "rows.txt")])
    with pytest.raises(InputError, match="not learnt from the closed world"):
        read(Path("world"), prepared)


def test_the_articles_of_the_closed_world_are_labelled_with_the_kind_of_their_subject(tmp_path: Path) -> None:
    config = DataConfig(vocab_size=320, world=WorldConfig(entities=20, documents_per_entity=2))
    world = prepare_stage(Run.local(tmp_path, "prepare"), config)
    found = read(Path("world"), world)
    assert len(found) >= 20
    assert {labels[0] for _, labels in found} == {"person", "place", "work", "event"}
    assert world.fact_table is not None
    facts = [json.loads(line) for line in world.fact_table.read_text().splitlines()]
    for text, labels in found:
        assert any(fact["subject"] in text for fact in facts if fact["kind"] == labels[0])


def rows(*labels: str) -> list[LabelledText]:
    return [LabelledText(id=f"row {number}", text="x", labels=[label]) for number, label in enumerate(labels, 1)]


def test_labels_outside_the_set_and_sets_of_one_are_refused() -> None:
    assert label_set(rows("b", "a", "b"), []) == ["a", "b"]
    assert label_set(rows("b", "a", "b"), ["b", "a"]) == ["b", "a"]
    with pytest.raises(InputError, match=r"row 2 has the label 'c', which is not in the set of 2: a, b"):
        check_labels(rows("a", "c"), ["a", "b"])
    with pytest.raises(InputError, match=r"2 training texts have 1 label.* nothing to tell apart"):
        label_set(rows("a", "a"), [])
    with pytest.raises(InputError, match="no training text has the label 'b'"):
        label_set(rows("a", "a"), ["a", "b"])
