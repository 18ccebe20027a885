import base64
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from components.core.artifact import Artifact
from components.core.errors import DiskFullError, InputError
from components.core.identity import Identity
from components.core.run import EVENTS, Run
from components.core.worker import ERROR, Request, write_request
from components.data.config import DataConfig
from components.data.prepare import stage
from components.data.prepared import PreparedData
from components.data.split import SPLITS, position, split_of
from components.data.world.config import WorldConfig
from components.data.world.files import WORLD_FOLDER
from tests.data.conftest import prose, write_jsonl
from tests.data.site import Site

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {"vocab_size": 512, "validation_fraction": 0.1, "test_fraction": 0.1}


def prepare(folder: Path, *sources: Path | str, **settings: Any) -> PreparedData:
    cfg = DataConfig(**{"sources": [str(source) for source in sources], **SMALL, **settings})
    return stage(Run.local(folder), cfg)


def texts_by_split(artifact: PreparedData) -> dict[str, list[str]]:
    tokenizer = artifact.tokenizer()
    shards = artifact.shards()
    return {
        name: [tokenizer.decode(split.document(i).tolist()) for i in range(split.n_documents)]
        for name, split in shards.splits.items()
    }


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return prose(300)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, corpus: list[str]) -> PreparedData:
    folder = tmp_path_factory.mktemp("prepared")
    return prepare(folder / "run", write_jsonl(folder / "a.jsonl", corpus))


def test_every_document_comes_back_from_the_split_its_hash_says(prepared: PreparedData, corpus: list[str]) -> None:
    expected: dict[str, list[str]] = {split: [] for split in SPLITS}
    for text in corpus:
        expected[split_of(position(text.encode()), 0.1, 0.1)].append(text)
    assert texts_by_split(prepared) == expected


def test_documents_end_with_the_boundary(prepared: PreparedData) -> None:
    shards = prepared.shards()
    assert shards.boundary_id == prepared.tokenizer().end_of_text_id
    for split in shards.splits.values():
        row = split.slice(0, split.n_tokens)
        assert (row == shards.boundary_id).sum() == split.n_documents
        assert row[-1] == shards.boundary_id


def test_the_record_counts_what_was_written(prepared: PreparedData, corpus: list[str]) -> None:
    n_bytes = sum(len(text.encode()) for text in corpus)
    assert prepared.metrics["documents"] == len(corpus)
    assert prepared.metrics["bytes"] == n_bytes
    tokens_of_text = prepared.metrics["tokens"] - len(corpus)
    assert prepared.metrics["bytes_per_token"] == pytest.approx(n_bytes / tokens_of_text)
    assert prepared.metrics["megabytes_per_second"] > 0
    assert prepared.details["vocab_size"] == 512
    assert prepared.questions is prepared.fact_table is None
    assert prepared.details["skipped"] == {}
    for metric, total in (("documents", len(corpus)), ("bytes", n_bytes), ("tokens", prepared.metrics["tokens"])):
        assert sum(split[metric] for split in prepared.details["splits"].values()) == total
    assert prepared.fault() is None
    assert {name.split("/")[0] for name in prepared.record.files} == {
        PreparedData.RAW,
        PreparedData.TOKENIZER,
        PreparedData.SHARDS,
    }


def test_adding_data_moves_no_document(prepared: PreparedData, corpus: list[str], tmp_path: Path) -> None:
    grown = prepare(tmp_path / "run", write_jsonl(tmp_path / "a.jsonl", prose(150, seed=1) + corpus))
    before, after = texts_by_split(prepared), texts_by_split(grown)
    assert all(set(before[split]) <= set(after[split]) for split in SPLITS)


def test_the_order_of_sources_does_not_change_the_tokenizer(corpus: list[str], tmp_path: Path) -> None:
    first, second = write_jsonl(tmp_path / "a.jsonl", corpus[:150]), write_jsonl(tmp_path / "b.jsonl", corpus[150:])
    made = [
        prepare(tmp_path / name, *sources, tokenizer_sample_mb=0.05).tokenizer_digest()
        for name, sources in {"forth": (first, second), "back": (second, first)}.items()
    ]
    assert made[0] == made[1]


def test_held_out_text_does_not_shape_the_vocabulary(prepared: PreparedData, corpus: list[str], tmp_path: Path) -> None:
    held_out = [text for text in prose(600, seed=2) if split_of(position(text.encode()), 0.1, 0.1) != "train"]
    assert held_out
    more = prepare(tmp_path / "more", write_jsonl(tmp_path / "a.jsonl", corpus + held_out))
    assert more.tokenizer_digest() == prepared.tokenizer_digest()


def test_the_closed_world_brings_its_questions(tmp_path: Path) -> None:
    artifact = prepare(tmp_path / "run", "world", world=WorldConfig(entities=60))
    world = {artifact.world_documents, artifact.fact_table, artifact.questions}
    assert None not in world
    assert {path.parent for path in world if path} == {artifact.path(PreparedData.RAW) / WORLD_FOLDER}
    assert artifact.metrics["documents"] > 60


def test_the_manual_of_python_can_be_prepared(tmp_path: Path) -> None:
    artifact = prepare(tmp_path / "run", "pydoc", keep_sources=False)
    assert not any(name.startswith("raw/") for name in artifact.record.files)
    assert artifact.details["sources"][0]["source"] == "pydoc"


def test_real_text_is_prepared_without_loss(biographies: Path, tmp_path: Path) -> None:
    artifact = prepare(tmp_path / "run", biographies, vocab_size=2048)
    texts = {text for split in texts_by_split(artifact).values() for text in split}
    assert len(texts) == 110
    assert artifact.metrics["bytes"] == sum(len(text.encode()) for text in texts)
    assert artifact.metrics["bytes_per_token"] > 2.5


def test_text_from_an_address_is_prepared_and_kept(site: Site, corpus: list[str], tmp_path: Path) -> None:
    site.content = write_jsonl(tmp_path / "a.jsonl", corpus).read_bytes()
    site.bytes_per_answer = 100_000
    artifact = prepare(tmp_path / "run", site.address)
    assert artifact.metrics["documents"] == len(corpus)
    (kept,) = artifact.path(PreparedData.RAW).iterdir()  # and no notes of the download
    assert (kept.name, kept.read_bytes()) == ("000-text.jsonl", site.content)


def test_one_text_file_of_many_parts_can_be_prepared(tmp_path: Path) -> None:
    play = tmp_path / "play.txt"
    play.write_text("\n\n".join(text.strip() for text in prose(300)))
    with pytest.raises(InputError, match=r"a corpus of 1 document.* is too small.*data\.document_separator"):
        prepare(tmp_path / "run", play)
    assert prepare(tmp_path / "run", play, document_separator="blank-line").metrics["documents"] == 300


def test_skipped_documents_are_counted_once(corpus: list[str], tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [*corpus, ""])
    path.write_bytes(path.read_bytes() + b'not json\n{"text": "caf\xe9"}\n{"body": "x"}\n')
    with pytest.raises(InputError, match="line 302 is not JSON"):
        prepare(tmp_path / "run", path)
    artifact = prepare(tmp_path / "run", path, on_error="skip")
    assert artifact.details["skipped"] == {"empty": 1, "not_json": 1, "undecodable": 1, "no_text": 1}
    assert artifact.metrics["skipped"] == 4
    assert artifact.metrics["documents"] == len(corpus)


def test_duplicates_are_counted_and_kept(corpus: list[str], prepared: PreparedData, tmp_path: Path) -> None:
    assert prepared.metrics["duplicates"] == 0
    assert [name for name, _ in prepared.record.rows] == ["training text"]
    artifact = prepare(tmp_path / "run", write_jsonl(tmp_path / "a.jsonl", [*corpus, *corpus[:7], corpus[0]]))
    assert artifact.metrics["duplicates"] == 8
    assert artifact.metrics["documents"] == len(corpus) + 8
    assert ("duplicates", "8 of 308 documents repeat the text of another") in artifact.record.rows


def test_a_document_that_is_one_long_word_is_prepared_without_loss_and_with_progress(
    corpus: list[str], tmp_path: Path
) -> None:
    blob = base64.b64encode(random.Random(2).randbytes(900_000)).decode()
    cfg = DataConfig(sources=[str(write_jsonl(tmp_path / "a.jsonl", [*corpus, blob]))], **SMALL)
    artifact = stage(Run.recorded(tmp_path / "run", Run.local(tmp_path / "run").identity), cfg)
    assert blob in {text for split in texts_by_split(artifact).values() for text in split}
    events = [json.loads(line) for line in (tmp_path / "run" / EVENTS).read_text().splitlines()]
    told = [event.get("message", "") for event in events]
    assert [message for message in told if "of 1.2 million characters of one document" in message]
    assert [message for message in told if message.startswith("counting words: ")]


def test_sources_without_any_document(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no documents were found in .*a\.jsonl"):
        prepare(tmp_path / "run", write_jsonl(tmp_path / "a.jsonl", ["", " "]))


def test_too_few_documents_for_the_splits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a corpus of 2 document.* is too small.* none fell to validation\."):
        prepare(tmp_path / "run", write_jsonl(tmp_path / "a.jsonl", ["one", "two"]))


def test_a_vocabulary_larger_than_the_text_supports(corpus: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"vocabulary of 32768: it supports \d+ tokens"):
        prepare(tmp_path / "run", write_jsonl(tmp_path / "a.jsonl", corpus), vocab_size=32768)


def test_progress_is_reported_to_the_flow_in_small_steps(corpus: list[str], tmp_path: Path) -> None:
    cfg = DataConfig(sources=[str(write_jsonl(tmp_path / "a.jsonl", prose(6000, words=60)))], **SMALL)
    stage(Run.recorded(tmp_path / "run", Run.local(tmp_path / "run").identity), cfg)
    events = [json.loads(line) for line in (tmp_path / "run" / EVENTS).read_text().splitlines()]
    told = [event["progress"] for event in events if "progress" in event]
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 5
    assert any(event.get("metrics", {}).get("tokens", 0) > 0 for event in events)


# In processes of their own


def worker(folder: Path, cfg: DataConfig) -> list[str]:
    """Leave the request for the stage in ``folder``; returns the command that runs it."""
    folder.mkdir(parents=True, exist_ok=True)
    identity = Identity(stage="prepare", key="0" * 32, config={}, inputs={}, code={}, environment={})
    request = Request(
        function="components.data.prepare:stage",
        config_type="components.data.config:DataConfig",
        config=cfg.model_dump(mode="json"),
        inputs={},
        identity=identity,
    )
    write_request(folder, request)
    return [sys.executable, "-m", "components.core.worker", str(folder)]


def lines(path: Path, megabytes: int) -> Path:
    """Synthetic text: sentences of a fixed vocabulary in a new order on every line."""
    block = prose(800, words=200)
    size = 0
    with path.open("w") as file:
        for number, text in enumerate(_endless(block)):
            line = json.dumps({"text": f"{number} {text}"}) + "\n"
            file.write(line)
            size += len(line)
            if size > megabytes * 1_000_000:
                return path
    raise AssertionError("unreachable")


def _endless(texts: list[str]) -> Iterable[str]:
    while True:
        yield from texts


def test_peak_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peak_mb = {}
    for megabytes in (3, 30):
        source = lines(tmp_path / f"{megabytes}.jsonl", megabytes)
        cfg = DataConfig(sources=[str(source)], tokenizer_sample_mb=1.0, keep_sources=False, **SMALL)
        process = subprocess.Popen(worker(tmp_path / str(megabytes), cfg), cwd=ROOT, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        peak_mb[megabytes] = usage.ru_maxrss / 1000
    assert peak_mb[30] < peak_mb[3] + 15, f"peak memory in MB by corpus size in MB: {peak_mb}"


def test_a_full_disk_stops_with_its_own_code_and_keeps_what_was_there(corpus: list[str], tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", corpus * 10)
    cfg = DataConfig(sources=[str(source)], keep_sources=False, **SMALL)
    folder = tmp_path / "run"
    limited = (
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_module('components.core.worker', run_name='__main__', alter_sys=True)\n"
    )
    command = [sys.executable, "-c", limited, *worker(folder, cfg)[2:]]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == DiskFullError.exit_code, answer.stderr
    error = json.loads((folder / ERROR).read_text())
    assert error["type"] == "DiskFullError"
    assert "train-00000.bin" in error["message"]
    assert not (folder / "artifact.json").exists()
    assert source.exists()
    subprocess.run(worker(folder, cfg), cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert Artifact.open(folder).fault() is None


def test_a_killed_run_can_be_started_again_in_its_folder(corpus: list[str], tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", 5)
    cfg = DataConfig(sources=[str(source)], tokenizer_sample_mb=1.0, shard_tokens=50_000, **SMALL)
    folder = tmp_path / "run"
    process = subprocess.Popen(worker(folder, cfg), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (folder / PreparedData.SHARDS / "train-00002.bin").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL, "it was to be killed while writing shards"
    assert not (folder / "artifact.json").exists()

    again, fresh = stage(Run.local(folder), cfg), stage(Run.local(tmp_path / "fresh"), cfg)
    ours = {name: record.sha256 for name, record in again.record.files.items()}
    assert ours == {name: record.sha256 for name, record in fresh.record.files.items()}
