"""Labels for the corpus of the evaluation tests: the towns are facts, and a helper may know them."""

import re

import numpy as np
import pytest
from jaxtyping import Bool

from components.data.prepared import PreparedData
from components.data.shards import Split
from components.data.tokenizer import TextTokenizer
from components.labelling.artifact import Labels
from tests.evaluation.conftest import TOWNS
from tests.labels import labelled

TOWN = re.compile("|".join(TOWNS))


@pytest.fixture(scope="session")
def fact_labels(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """Tokens that hold a letter of a town."""
    tokenizer = prepared.tokenizer()

    def facts(split: Split) -> Bool[np.ndarray, " tokens"]:
        row = np.zeros(split.n_tokens, dtype=bool)
        for number in range(split.n_documents):
            ids = split.document(number).tolist()
            start = int(split.documents[number, 0])
            row[start : start + len(ids)] = _factual(tokenizer, ids)
        return row

    return labelled(tmp_path_factory.mktemp("fact_labels"), prepared, facts)


def _factual(tokenizer: TextTokenizer, ids: list[int]) -> list[bool]:
    text = tokenizer.decode(ids)
    spans = [match.span() for match in TOWN.finditer(text)]
    ends = np.cumsum([len(tokenizer.token_bytes(id)) for id in ids]).tolist()
    starts = [0, *ends[:-1]]
    return [any(start < stop and end > begin for begin, stop in spans) for start, end in zip(starts, ends, strict=True)]
