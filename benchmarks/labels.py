"""How fast text becomes fact bits, per core: ``python -m benchmarks.labels [PIPELINE]``.

Runs the real label stage in one process on biographies of ``../shared/data`` and, in a second table, the share of
factual tokens under each rule set. Times are processor times, because wall time on a shared machine includes what
others took. The default pipeline is the one in ``../shared/data``. Tokens are those of the BPE that is labelled, as in
the published number (its vocabulary has 32K entries; a smaller one cuts the same text into more tokens and so looks
faster).
"""

import argparse
import json
import resource
import tempfile
from pathlib import Path

from benchmarks.results import Result, add_record_option, given_command, record
from components.core.run import Run
from components.data.config import DataConfig
from components.data.prepare import stage as prepare
from components.data.prepared import PreparedData
from components.labelling.artifact import Labels
from components.labelling.config import LabelConfig, RuleSet
from components.labelling.stage import stage

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared/data"
BIOGRAPHIES = SHARED_DATA / "pretrain/enwiki_bios"
PIPELINE = SHARED_DATA / "spacy/en_gum_sm"
PUBLISHED_TOKENS_PER_SECOND = 1830  # 152 core-hours for a billion tokens (arXiv:2602.12005, table 2)
TIMED_FRACTION = 0.015
VOCABULARIES = (2_048, 32_000)
RULES: tuple[RuleSet, ...] = ("ner+pos", "ner+pos+attr")


def main() -> None:
    """Measure each vocabulary and rule set and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", nargs="?", default=str(PIPELINE), help="installed spaCy package or path")
    parser.add_argument("--source", default=str(BIOGRAPHIES / "train.jsonl.gz"), help="as in data.sources")
    parser.add_argument("--agreement-documents", type=int, default=200)
    add_record_option(parser)
    arguments = parser.parse_args()

    print(f"BPE tokens per second of one core; published: {PUBLISHED_TOKENS_PER_SECOND:,}")
    print(
        f"{'annotator':24} {'vocabulary':>10} {'bytes/token':>11} {'tokens/s':>9} {'of published':>12} {'peak MB':>8}"
    )
    labelled: dict[int, Labels] = {}
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for vocab_size in VOCABULARIES:
            place = Path(folder) / str(vocab_size)
            # A vocabulary of 32,000 needs all the text; timing does not.
            data = DataConfig(sources=[arguments.source], vocab_size=vocab_size, validation_fraction=TIMED_FRACTION)
            prepared = prepare(Run.local(place / "data"), data)
            few = held_out_only(prepared, place / "few")
            for rules in RULES:
                cfg = LabelConfig(pipeline=arguments.pipeline, rules=rules, processes=1, agreement_documents=0)
                results.append(
                    measured(stage(Run.local(place / rules), cfg, prepared=few), rules, prepared, vocab_size)
                )
            cfg = LabelConfig(annotator="capitals", processes=1, agreement_documents=0)
            results.append(measured(stage(Run.local(place / "capitals"), cfg, prepared=few), "", prepared, vocab_size))
            # The comparison is over training documents, the same ones for either vocabulary.
            cfg = LabelConfig(
                annotator="capitals",
                pipeline=arguments.pipeline,
                processes=1,
                agreement_documents=arguments.agreement_documents,
            )
            labelled[vocab_size] = stage(Run.local(place / "annotator_agreement"), cfg, prepared=prepared)
        print()
        for vocab_size, labels in labelled.items():
            print(f"vocabulary {vocab_size:,}\n{labels.agreement_page.read_text()}")
    if arguments.record:
        record("labels", results, given_command("benchmarks.labels"))


def held_out_only(prepared: PreparedData, folder: Path) -> PreparedData:
    """The same artifact without its training split: enough text to time."""
    shards = folder / PreparedData.SHARDS
    shards.mkdir(parents=True)
    for path in prepared.shards_folder.iterdir():
        (shards / path.name).symlink_to(path)
    index = json.loads((shards / "index.json").read_text())
    index["splits"] = {"train": index["splits"]["validation"]}
    (shards / "index.json").unlink()
    (shards / "index.json").write_text(json.dumps(index))
    for path in shards.glob("train-*"):
        path.unlink()
    for path in sorted(shards.glob("validation-*")):
        path.rename(shards / path.name.replace("validation", "train"))
    (folder / PreparedData.TOKENIZER).symlink_to(prepared.tokenizer_folder)
    return PreparedData(folder, prepared.record)


def measured(labels: Labels, rules: str, prepared: PreparedData, vocab_size: int) -> Result:
    """Print one line of the first table, and return the result."""
    speed = labels.metrics["tokens_per_second_per_core"]
    name = f"{labels.details['annotator']} {rules}".strip()
    ratio, peak_mb = speed / PUBLISHED_TOKENS_PER_SECOND, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    bytes_per_token = prepared.metrics["bytes_per_token"]
    print(f"{name:24} {vocab_size:10,} {bytes_per_token:11.2f} {speed:9,.0f} {ratio:11.1f}x {peak_mb:8.0f}", flush=True)
    return Result(
        f"facts labelled by {name}, one core, vocabulary {vocab_size:,}",
        f"{speed:,.0f} tokens/s",
        f"published: {PUBLISHED_TOKENS_PER_SECOND:,} tokens/s",
        f"{ratio:.1f} x; {bytes_per_token:.2f} bytes per token; peak memory {peak_mb:,.0f} MB",
    )


if __name__ == "__main__":
    main()
