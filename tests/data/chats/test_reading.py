"""Conversations in every layout, and what is said of lines that hold none."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.errors import InputError
from components.data.chats.conversation import Conversation
from components.data.chats.reading import ConversationReader
from components.data.sources import SourceFile

ASKED, ANSWERED = "Who painted it?", "Nobody knows."
LAYOUTS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]},
    "from and value": {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}]},
    "prompt": {"prompt": ASKED, "response": ANSWERED},
    "completion": {"prompt": ASKED, "completion": f" {ANSWERED}\n"},
    "alpaca": {"instruction": ASKED, "input": "", "output": ANSWERED},
}


def read(folder: Path, rows: Sequence[object], may_skip: bool = False) -> tuple[list[Conversation], int]:
    path = folder / "chats.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    reader = ConversationReader("auto", may_skip)
    found = list(reader.conversations([SourceFile(path, "chats.jsonl", "jsonl", "", "text")]))
    return found, reader.skipped["no_conversation"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_turns(tmp_path: Path, layout: str) -> None:
    (found,), _ = read(tmp_path, [LAYOUTS[layout]])
    assert [tuple(turn) for turn in found.turns] == [("user", ASKED), ("assistant", ANSWERED)]


def test_an_instruction_and_its_input_are_one_question(tmp_path: Path) -> None:
    (found,), _ = read(tmp_path, [{"instruction": "Translate.", "input": "dom", "output": "house"}])
    assert found.turns[0].content == "Translate.\n\ndom"


def test_compressed_lines_and_tables_are_read_alike(tmp_path: Path) -> None:
    rows = [
        LAYOUTS["messages"],
        {"messages": [{"role": "system", "content": "Be brief."}, *LAYOUTS["messages"]["messages"]]},
    ]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    files = [
        SourceFile(tmp_path / "a.jsonl.gz", "a.jsonl.gz", "jsonl", "gzip", "text"),
        SourceFile(tmp_path / "a.parquet", "a.parquet", "parquet", "", "text"),
    ]
    one, two, three, four = ConversationReader("auto", False).conversations(files)
    assert (one.turns, two.turns) == (three.turns, four.turns)
    assert two.turns[0] == ("system", "Be brief.")
    assert four.place == "a.parquet, row 2"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [{"role": "wizard", "content": "x"}]},
            "turn 1 has the unknown role 'wizard': allowed are",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " \n"}]},
            r"turn 2 \(assistant\) is empty",
        ),
        ({"messages": [{"role": "user", "content": "a"}]}, "the assistant never speaks"),
        ({"messages": []}, "the assistant never speaks"),
        ({"messages": "a"}, "has no list of turns"),
        ({"messages": [{"role": "user"}]}, "has no text under content or value"),
        ({"prompt": "a", "response": None}, "has no text under response"),
        ({"instruction": "a", "input": 3, "output": "b"}, "'input' is int, not text"),
        ({"text": "a"}, "no conversation in a known layout; its fields are"),
        (["a"], "is list, not an object"),
        ("{", "is not JSON"),
    ],
)
def test_a_line_without_a_conversation_is_named_or_left_out(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, [row])
    found, skipped = read(tmp_path, [row, LAYOUTS["prompt"]], may_skip=True)
    assert (len(found), skipped) == (1, 1)


def test_a_damaged_or_foreign_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "a.txt").write_text("text")
    for file, message in (
        (SourceFile(tmp_path / "cut.parquet", "cut.parquet", "parquet", "", "text"), "cut.parquet cannot be read"),
        (SourceFile(tmp_path / "a.txt", "a.txt", "text", "", "text"), "a.txt is text: conversations are read from"),
    ):
        with pytest.raises(InputError, match=message):
            list(ConversationReader("auto", False).conversations([file]))
