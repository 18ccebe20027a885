"""Data sets through the real library: folders on disk laid out like hub repositories, and a hub that is not there."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.errors import InputError
from components.data.hub import HubDataset, fetch_dataset, fingerprint_of_dataset

TEXTS = [f"document {number} é" for number in range(20)]


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    pq.write_table(pa.table({"text": TEXTS}), folder / "train.parquet")
    pq.write_table(pa.table({"text": ["held out"]}), folder / "test.parquet")
    return folder


def texts(source: str, path: Path, text_field: str = "text") -> list[str]:
    fetch_dataset(source, text_field, path, lambda fraction, message: None)
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_a_source_names_data_set_configuration_and_split() -> None:
    assert HubDataset.parse("hf://owner/name") == HubDataset("owner/name", "", "train")
    assert HubDataset.parse("hf://owner/name:fr") == HubDataset("owner/name", "fr", "train")
    assert HubDataset.parse("hf://owner/name:fr:test") == HubDataset("owner/name", "fr", "test")
    assert HubDataset.parse("hf://owner/name::test") == HubDataset("owner/name", "", "test")


@pytest.mark.parametrize("source", ["hf://", "hf://a:b:c:d"])
def test_a_source_that_names_nothing_is_refused(source: str) -> None:
    with pytest.raises(InputError, match="write hf://dataset"):
        HubDataset.parse(source)


def test_a_data_set_is_streamed_to_lines(dataset: Path, tmp_path: Path) -> None:
    assert texts(f"hf://{dataset}", tmp_path / "a.jsonl") == TEXTS
    assert texts(f"hf://{dataset}::test", tmp_path / "b.jsonl") == ["held out"]


def test_a_column_that_is_not_there_is_named_with_those_that_are(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'body'; it has \['text'\]\. Set data\.text_field"):
        texts(f"hf://{dataset}", tmp_path / "a.jsonl", "body")


def test_a_text_of_several_columns_has_a_template(dataset: Path, tmp_path: Path) -> None:
    assert texts(f"hf://{dataset}::test", tmp_path / "a.jsonl", "<{text}>{text}") == ["<held out>held out"]


def test_a_split_that_is_not_there_is_an_input_error(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: .*nosuch"):
        texts(f"hf://{dataset}::nosuch", tmp_path / "a.jsonl")


def test_a_local_data_set_is_known_by_its_content(dataset: Path) -> None:
    before = fingerprint_of_dataset(f"hf://{dataset}")
    pq.write_table(pa.table({"text": ["changed"]}), dataset / "test.parquet")
    assert fingerprint_of_dataset(f"hf://{dataset}") != before


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # what Python does for a package that is not installed
    for ask in (
        lambda: fingerprint_of_dataset("hf://owner/name"),
        lambda: fetch_dataset("hf://owner/name", "text", tmp_path / "a.jsonl", lambda fraction, message: None),
    ):
        with pytest.raises(InputError, match=r"install the extra with `pip install 'lacewing\[hub\]'`"):
            ask()


FINGERPRINT = "fingerprint_of_dataset('hf://owner/name')"
FETCH = "fetch_dataset('hf://owner/name', 'text', Path('never.jsonl'), lambda fraction, message: None)"


@pytest.mark.parametrize(
    ("setting", "call"),
    [
        ({"HF_HUB_OFFLINE": "1"}, FINGERPRINT),
        ({"HF_HUB_OFFLINE": "1"}, FETCH),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, FINGERPRINT),
    ],
    ids=["offline fingerprint", "offline fetch", "refused fingerprint"],
)
def test_without_the_hub_the_error_says_that_it_was_not_reached(
    setting: dict[str, str], call: str, tmp_path: Path
) -> None:
    # In a process of its own: the library reads these variables when it is imported.
    script = (
        "from pathlib import Path; from components.core.errors import ServiceError;"
        "from components.data.hub import fetch_dataset, fingerprint_of_dataset\n"
        f"try: {call}\n"
        "except ServiceError as error: print(error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": "", "HF_HOME": str(tmp_path), **setting},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert "the Hugging Face hub was not reached" in answer.stdout, answer.stderr
