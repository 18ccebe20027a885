"""Labels as the stage ``label`` leaves them, for tests that decide themselves which tokens state facts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.shards import Split, shards_digest
from components.labelling.artifact import Labels
from components.labelling.labels import BitsWriter, LabelIndex, write_index

Mark = Callable[[Split], Bool[np.ndarray, " tokens"]]
"""Of every token of a split, boundaries included: whether it states a fact."""


def labelled(
    folder: Path, prepared: PreparedData, facts: Mark, judged: Mark | None = None, annotator: str = "control"
) -> Labels:
    """The artifact, in ``folder``."""
    _write_bits(folder / Labels.FACTS, prepared, facts, annotator)
    if judged is not None:
        _write_bits(folder / Labels.JUDGED, prepared, judged, annotator)
    return Run.local(folder, "label").seal({}, view=Labels)


def _write_bits(folder: Path, prepared: PreparedData, mark: Mark, annotator: str) -> None:
    shards, splits = prepared.shards(), {}
    for name, split in shards.splits.items():
        with BitsWriter(folder, name) as writer:
            writer.append(mark(split))
        splits[name] = writer.record
    index = LabelIndex(
        annotator=annotator,
        rules="all",
        subwords="all",
        skip_copied=False,
        spacy="",
        pipeline="",
        pipeline_digest="",
        documents_by_annotator={},
        tokenizer=prepared.tokenizer_digest(),
        shards=shards_digest(shards),
        splits=splits,
    )
    write_index(folder, index)


def by_chance(share: float) -> Mark:
    """A ``share`` of the tokens, the same ones every time."""
    chance = np.random.default_rng(1)
    return lambda split: chance.random(split.n_tokens) < share
