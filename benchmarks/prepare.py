"""How fast text becomes shards, per core: ``python -m benchmarks.prepare [SOURCE ...]``.

Runs the real prepare stage on one thread. ``stage`` is everything after the sources are gathered, both passes over the
text, without the training of the tokenizer; ``library alone`` is ``encode_batch_fast`` of the tokenizer library on the
same text in memory. Times are processor times, because wall time on a shared machine includes what others took. The
default sources are the closed world with 20,000 entities and, where they exist, the biographies in ``../shared/data``.
"""

import os

os.environ["RAYON_NUM_THREADS"] = "1"  # before the tokenizer library is imported: results are per core
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.results import Result, add_record_option, given_command, record
from components.core.run import Run
from components.data.config import DataConfig
from components.data.prepare import stage
from components.data.prepared import PreparedData
from components.data.world.config import WorldConfig

BIOGRAPHIES = Path(__file__).resolve().parents[2] / "shared/data/pretrain/enwiki_bios/train.jsonl.gz"
GOAL_MB_PER_SECOND = 5.0
WORLD_ENTITIES = 20_000


def main() -> None:
    """Measure each source and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*", help="as in data.sources; one row each")
    parser.add_argument("--vocab-size", type=int, default=2048)
    add_record_option(parser)
    arguments = parser.parse_args()
    sources = arguments.sources or ["world", *([str(BIOGRAPHIES)] if BIOGRAPHIES.exists() else [])]

    print(f"MB of text per second of one core; goal for the stage: {GOAL_MB_PER_SECOND:g}")
    print(f"{'source':32} {'MB':>7} {'bytes/token':>11} {'stage':>7} {'library alone':>13} {'peak MB':>8}")
    results = []
    for source in sources:
        cfg = DataConfig(sources=[source], vocab_size=arguments.vocab_size, world=WorldConfig(entities=WORLD_ENTITIES))
        with tempfile.TemporaryDirectory() as folder:
            results.append(measured(cfg, Path(folder)))
    if arguments.record:
        record("prepare", results, given_command("benchmarks.prepare"))


def measured(cfg: DataConfig, folder: Path) -> Result:
    """Print one line of the table for ``cfg.sources``, working in ``folder``, and return the result."""
    clock = Clock()
    artifact = stage(replace(Run.local(folder), report=clock.note), cfg)
    stage_seconds = clock.seconds("gathered", "learning") + clock.seconds("learnt", "wrote")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000

    megabytes = artifact.metrics["bytes"] / 1e6
    library = megabytes / library_seconds(artifact)
    source, bytes_per_token, speed = cfg.sources[0], artifact.metrics["bytes_per_token"], megabytes / stage_seconds
    print(f"{source[-32:]:32} {megabytes:7.1f} {bytes_per_token:11.2f} {speed:7.2f} {library:13.2f} {peak_mb:8.0f}")
    name = "/".join(Path(source).parts[-2:])
    return Result(
        f"text to shards, one core, without tokenizer training: {megabytes:.0f} MB of `{name}`",
        f"{speed:.1f} MB/s",
        f">= {GOAL_MB_PER_SECOND:g} MB/s",
        f"tokenizer library alone {library:.1f} MB/s; peak memory {peak_mb:,.0f} MB",
    )


class Clock:
    """Processor time at each report of the stage."""

    def __init__(self) -> None:
        self._notes: list[tuple[str, float]] = []

    def note(self, fraction: float, message: str) -> None:
        """Take the place of ``run.report``."""
        self._notes.append((message, time.process_time()))

    def seconds(self, start: str, stop: str) -> float:
        """Processor seconds from the last report that begins with ``start`` to the last that begins with ``stop``."""
        last = {message.split()[0]: moment for message, moment in self._notes}
        return last[stop] - last[start]


def library_seconds(prepared: PreparedData, batch_documents: int = 256) -> float:
    """Processor seconds of ``encode_batch_fast`` and of reading its ids, text already in memory."""
    tokenizer = Tokenizer.from_file(str(prepared.tokenizer_folder / "tokenizer.json"))
    decoder = prepared.tokenizer()
    seconds = 0.0
    for split in prepared.shards().splits.values():
        for first in range(0, split.n_documents, batch_documents):
            numbers = range(first, min(first + batch_documents, split.n_documents))
            batch = [decoder.decode(split.document(i).tolist()) for i in numbers]
            started = time.process_time()
            for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                assert encoding.ids
            seconds += time.process_time() - started
    return seconds


if __name__ == "__main__":
    main()
