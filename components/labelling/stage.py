"""The label stage: shards to one bit per token that says whether it states a fact.

Texts are read back from the shards (decoding is lossless), annotated, and the factual words mapped to tokens by byte
offsets, so bits and tokens are aligned by construction. On the closed world there is a second set of bits: values
alone, as a language model would mark them.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tqdm import tqdm

from components.core.atomic import write_text
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.shards import shards_digest
from components.data.sources import WORLD
from components.data.tokenizer import tokenizer_digest
from components.labelling.annotator_agreement import AnnotatorAgreement, compare
from components.labelling.annotators.choose import Choice, choose
from components.labelling.annotators.pipeline import PipelineRecord
from components.labelling.artifact import Labels
from components.labelling.config import LabelConfig
from components.labelling.document_labeller import DocumentLabeller, Job, jobs, labelled_jobs, useful_processes
from components.labelling.labels import BitsWriter, LabelIndex, SplitBits, write_index

# On Wikipedia-like text, as LaCy reports. Outside this range, check the call budget and the annotator.
EXPECTED_SHARE = (0.20, 0.30)
# Lists and tables look foreign too; a share above this is text of another language.
_FOREIGN_SHARE = 0.02
# Where each part of the work ends, as a fraction of the whole.
_OPENED, _MARKED = 0.02, 0.9

_logger = logging.getLogger(__name__)


class _Totals:
    """Counts over all documents."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.documents: Counter[str] = Counter()
        self.languages: Counter[bool | None] = Counter()

    @property
    def foreign_share(self) -> float:
        """Part of the documents whose language can be told that are in one the annotator does not know."""
        return self.languages[False] / max(1, self.languages[False] + self.languages[True])


def stage(run: Run, config: LabelConfig, *, prepared: PreparedData) -> Labels:
    """Label the tokens of ``prepared``.

    Raises ``InputError`` if the annotator cannot be opened, ``ArtifactError`` if shards and tokenizer do not fit,
    ``ServiceError`` if a process of its own is killed, ``DiskFullError``.
    """
    facts, judged = run.folder / Labels.FACTS, run.folder / Labels.JUDGED
    for leftover in (facts, judged):
        shutil.rmtree(leftover, ignore_errors=True)
    only_world = {each["source"] for each in prepared.details["sources"]} == {WORLD}
    choice = choose(config, prepared.world_documents, only_world=only_world)
    run.report(0.0, f"annotator {choice.name}: {choice.reason}")
    labeller = DocumentLabeller(
        prepared.shards_folder, prepared.tokenizer_folder, choice, config.subwords, config.skip_copied
    )
    labeller.open()

    work = list(jobs(labeller.shards, choice.name))
    processes = config.processes or useful_processes(work, choice.name)
    splits, values, totals = _label(run, labeller, work, processes, facts, judged if choice.documents else None)
    index = _index(config, labeller, totals, splits)
    write_index(facts, index)
    if choice.documents:
        write_index(judged, index.model_copy(update={"annotator": "world", "rules": "values", "splits": values}))

    agreement = _compared(run, labeller, config)
    metrics = _metrics(splits, totals, agreement)
    if choice.documents:
        metrics["judged_share"] = _share(values)
    warnings = _warnings(config, choice, labeller.pipeline, totals, metrics)
    for warning in warnings:
        _logger.warning(warning)
    run.log(metrics, None)
    run.report(1.0, f"{metrics['factual_share']:.1%} of {metrics['tokens']:,.0f} tokens are factual")
    details = {
        "annotator": choice.name,
        "rules": choice.rules,
        "reason": choice.reason,
        "processes": processes,
        "pipeline": index.pipeline,
        "documents_by_annotator": dict(totals.documents),
        "warnings": warnings,
    }
    rows = [("factual tokens", f"{metrics['factual_share']:.1%}, found by {choice.name}")]
    return run.seal(metrics, details, rows, view=Labels)


def _compared(run: Run, labeller: DocumentLabeller, config: LabelConfig) -> AnnotatorAgreement:
    """Write how well the annotators agree, for programs and for people."""
    run.report(_MARKED, "comparing annotators")
    agreement = compare(labeller, config.agreement_documents)
    write_text(run.folder / Labels.AGREEMENT, agreement.model_dump_json(indent=2) + "\n")
    write_text(run.folder / Labels.AGREEMENT_PAGE, agreement.markdown())
    return agreement


def _label(
    run: Run, labeller: DocumentLabeller, work: list[Job], processes: int, facts: Path, judged: Path | None
) -> tuple[dict[str, SplitBits], dict[str, SplitBits], _Totals]:
    """Write the bits of all splits; returns their records (factual, judged) and totals."""
    totals = _Totals()
    names = list(labeller.shards.splits)
    with ExitStack() as stack, _progress(run, work) as on_bytes:
        factual = {name: stack.enter_context(BitsWriter(facts, name)) for name in names}
        values = {name: stack.enter_context(BitsWriter(judged, name)) for name in names} if judged else {}
        for labelled in labelled_jobs(labeller, iter(work), processes):
            bits, value_bits = labelled.bits()
            factual[labelled.job.split].append(bits)
            if value_bits is not None:
                values[labelled.job.split].append(value_bits)
            totals.seconds += labelled.seconds
            totals.documents += labelled.documents
            totals.languages += labelled.languages
            on_bytes(labelled.job.n_bytes)
    return (
        {name: writer.record for name, writer in factual.items()},
        {name: writer.record for name, writer in values.items()},
        totals,
    )


def _index(cfg: LabelConfig, labeller: DocumentLabeller, totals: _Totals, splits: dict[str, SplitBits]) -> LabelIndex:
    choice, pipeline = labeller.choice, labeller.pipeline
    return LabelIndex(
        annotator=choice.name,
        rules=choice.rules,
        subwords=cfg.subwords,
        skip_copied=cfg.skip_copied,
        spacy=pipeline.spacy if pipeline else "",
        pipeline=pipeline.name if pipeline else "",
        pipeline_digest=pipeline.digest if pipeline else "",
        documents_by_annotator=dict(totals.documents),
        tokenizer=tokenizer_digest(labeller.tokenizer_folder),
        shards=shards_digest(labeller.shards),
        splits=splits,
    )


def _share(splits: dict[str, SplitBits]) -> float:
    return sum(split.factual for split in splits.values()) / max(1, sum(split.tokens for split in splits.values()))


def _metrics(splits: dict[str, SplitBits], totals: _Totals, agreement: AnnotatorAgreement) -> dict[str, float]:
    tokens = sum(split.tokens for split in splits.values())
    metrics: dict[str, float] = {
        "tokens": tokens,
        "factual_share": _share(splits),
        "tokens_per_second_per_core": tokens / max(totals.seconds, 1e-9),
        "core_seconds": totals.seconds,
        "foreign_share": totals.foreign_share,
    }
    for standing in agreement.standings:
        name = _figure(f"{standing.annotator} {standing.rules}")
        metrics[f"share_{name}"] = standing.share
        if standing.precision is not None and standing.recall is not None:
            metrics |= {f"precision_{name}": standing.precision, f"recall_{name}": standing.recall}
    for pair in agreement.agreements:
        one, other = pair.one.split()[0], pair.other.split()[0]
        if one == other or "control" in (one, other):
            continue  # annotator_agreement.json has them all
        name = f"{_figure(pair.one)}_{_figure(pair.other)}"
        metrics |= {f"kappa_{name}": pair.kappa, f"agreement_f1_{name}": pair.f1}
    return metrics


def _figure(candidate: str) -> str:
    """Name of a candidate within that of a metric: rules are named where an annotator has several."""
    annotator, _, rules = candidate.partition(" ")
    return {"spacy": f"spacy_{rules}".replace("+", "_"), "control": rules}.get(annotator, annotator)


def _warnings(
    cfg: LabelConfig, choice: Choice, pipeline: PipelineRecord | None, totals: _Totals, metrics: dict[str, float]
) -> list[str]:
    """What a person should know before training on these labels."""
    found = []
    share = metrics["factual_share"]
    low, high = EXPECTED_SHARE
    if choice.name == "capitals":
        found.append(
            f"{choice.reason}: words are judged by capitals and digits alone, which marks four fifths of the "
            "values that a language model would mark, among four times as many other words. For better labels, get "
            "one (`python -m spacy download en_core_web_sm`) or set label.pipeline=PATH"
        )
    if share == 0:
        found.append("no token is factual: a model trained on these labels never calls, and calibrates to zero calls")
    elif choice.name not in ("control", "calculations") and cfg.subwords == "all" and not low <= share <= high:
        found.append(
            f"{share:.1%} of the tokens are factual; {low:.0%} to {high:.0%} are expected on encyclopaedic text. "
            "Set delegation.budget accordingly, or choose other label.rules"
        )
    if totals.foreign_share > _FOREIGN_SHARE:
        language = f"for the language {pipeline.language!r}" if pipeline else "for scripts with capital letters"
        found.append(
            f"{totals.languages[False]} of {totals.languages[False] + totals.languages[True]} documents do not look "
            f"like text the annotator knows (it is {language}): their labels mean little. Name a pipeline of their "
            "language in label.pipeline, or leave them out"
        )
    if len(totals.documents) > 1:
        parts = ", ".join(f"{name} {count}" for name, count in totals.documents.most_common())
        found.append(f"the corpus is mixed: its documents were annotated by different means ({parts})")
    return found


@contextmanager
def _progress(run: Run, work: list[Job]) -> Iterator[Callable[[int], None]]:
    """A bar for people and reports for the flow, both over the bytes of text."""
    total = max(1, sum(job.n_bytes for job in work))
    done = 0
    reported = _OPENED
    with tqdm(total=total, desc="labelling", unit="B", unit_scale=True, mininterval=0.5) as bar:

        def on_bytes(count: int) -> None:
            nonlocal done, reported
            done += count
            bar.update(count)
            fraction = _OPENED + (_MARKED - _OPENED) * done / total
            if fraction - reported >= 0.01:
                run.report(fraction, f"labelling: {done / 1e6:.1f} of {total / 1e6:.1f} MB")
                reported = fraction

        yield on_bytes
