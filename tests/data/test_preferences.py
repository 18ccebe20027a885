import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.errors import InputError
from components.data.preferences import PairError, PairReader, pair_of
from components.data.sources import SourceFile

USER, SYSTEM = {"role": "user", "content": "Why?"}, {"role": "system", "content": "Be brief."}
PLAIN = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, USER]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (PLAIN, [USER]),
        ({"instruction": "Why?", "input": "", "output": "So.", "chosen": "So.", "rejected": "No."}, [USER]),
        (
            {"instruction": "Add.", "input": "1 2", "chosen": "So.", "rejected": "No."},
            [{"role": "user", "content": "Add.\n\n1 2"}],
        ),
        (
            {
                "conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Why?"}],
                "chosen": {"from": "gpt", "value": "So."},
                "rejected": {"from": "gpt", "value": "No."},
            },
            [SYSTEM, USER],
        ),
        (
            {
                "chosen": [USER, {"role": "assistant", "content": "So."}],
                "rejected": [USER, {"role": "assistant", "content": "No."}],
            },
            [USER],
        ),
        (
            {
                "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: So.",
                "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: No.",
            },
            TURNS,
        ),
    ],
)
def test_every_published_layout_is_read(row: object, prompt: list[dict[str, str]]) -> None:
    pair = pair_of(row)
    assert (list(pair.prompt), pair.chosen, pair.rejected) == (prompt, "So.", "No.")


@pytest.mark.parametrize(
    ("row", "reason", "said"),
    [
        ({**PLAIN, "rejected": " So. "}, "identical answers", "nothing can be preferred"),
        ({**PLAIN, "rejected": "  "}, "empty turn", "a turn without words in 'rejected'"),
        ({**PLAIN, "chosen": {"from": "oracle", "value": "So."}}, "unknown role", "unknown role 'oracle' in 'chosen'"),
        ({"prompt": "Why?", "chosen": "So."}, "no pair", "has no turns in 'rejected'"),
        ({"chosen": "So.", "rejected": "No."}, "no pair", "no dialogue that begins with"),
        (["So.", "No."], "no pair", "is list, not an object"),
        (
            {
                "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: So.",
                "rejected": "\n\nHuman: Hi\n\nAssistant: Go",
            },
            "no common prompt",
            "differ elsewhere than in the last turn",
        ),
        (
            {"conversations": TURNS[:2], "chosen": "So.", "rejected": "No."},
            "no common prompt",
            "does not end with a turn of the user",
        ),
    ],
)
def test_what_is_no_pair_is_refused_and_says_why(row: object, reason: str, said: str) -> None:
    with pytest.raises(PairError, match=said) as refused:
        pair_of(row)
    assert refused.value.reason == reason


def lines(path: Path, rows: Sequence[object]) -> SourceFile:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return SourceFile(path, path.name, "jsonl", "gzip", "text")


def test_the_error_names_the_line_of_identical_answers(tmp_path: Path) -> None:
    file = lines(tmp_path / "pairs.jsonl.gz", [PLAIN, {**PLAIN, "rejected": "So."}])
    with pytest.raises(InputError, match=r"pairs.jsonl.gz, line 2 has identical answers.*on_error=skip"):
        list(PairReader().pairs([file]))


def test_rows_that_are_no_pairs_may_be_left_out_and_are_counted(tmp_path: Path) -> None:
    file = lines(tmp_path / "pairs.jsonl.gz", [PLAIN, {**PLAIN, "rejected": "So."}, {}])
    reader = PairReader("skip")
    assert [pair.place for pair in reader.pairs([file])] == ["pairs.jsonl.gz, line 1"]
    assert reader.skipped == {"identical answers": 1, "no pair": 1}


def test_parquet_holds_the_same_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist([PLAIN]), path)
    (pair,) = PairReader().pairs([SourceFile(path, "pairs.parquet", "parquet", "", "text")])
    assert (pair.place, pair.chosen) == ("pairs.parquet, row 1", "So.")


@pytest.mark.parametrize(
    ("name", "kind", "content", "said"),
    [
        ("pairs.jsonl", "jsonl", b"{not json\n", "line 1 is not JSON"),
        ("pairs.txt", "text", b"So.", "cannot hold pairs of answers"),
        ("pairs.parquet", "parquet", b"PAR1....PAR1", "truncated or damaged"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, kind: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    file = SourceFile(tmp_path / name, name, kind, "", "text")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"{name}.*{said}"):
        list(PairReader().pairs([file]))
