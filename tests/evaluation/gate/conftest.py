"""Labels for the corpus of the evaluation tests: the towns are facts, and a helper may know them."""

import re
from pathlib import Path

import numpy as np
import pytest

from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.shards import shards_digest
from components.data.tokenizer import TextTokenizer
from components.labelling.artifact import Labels
from components.labelling.labels import BitsWriter, LabelIndex, write_index
from tests.evaluation.conftest import TOWNS

TOWN = re.compile("|".join(TOWNS))


@pytest.fixture(scope="session")
def fact_labels(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Labels:
    return labelled(prepared, tmp_path_factory.mktemp("fact_labels"))


def labelled(prepared: PreparedData, folder: Path) -> Labels:
    """Tokens that hold a letter of a town."""
    shards, tokenizer, splits = prepared.shards(), prepared.tokenizer(), {}
    for name, split in shards.splits.items():
        with BitsWriter(folder / Labels.FACTS, name) as writer:
            row = np.zeros(split.n_tokens, dtype=bool)
            for number in range(split.n_documents):
                ids = split.document(number).tolist()
                start = int(split.documents[number, 0])
                row[start : start + len(ids)] = _factual(tokenizer, ids)
            writer.append(row)
        splits[name] = writer.record
    index = LabelIndex(
        annotator="control",
        rules="towns",
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
    write_index(folder / Labels.FACTS, index)
    return Run.local(folder, "label").seal({}, view=Labels)


def _factual(tokenizer: TextTokenizer, ids: list[int]) -> list[bool]:
    text = tokenizer.decode(ids)
    spans = [match.span() for match in TOWN.finditer(text)]
    ends = np.cumsum([len(tokenizer.token_bytes(id)) for id in ids]).tolist()
    starts = [0, *ends[:-1]]
    return [any(start < stop and end > begin for begin, stop in spans) for start, end in zip(starts, ends, strict=True)]
