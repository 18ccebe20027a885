"""Labels for the corpus of the evaluation tests, and a small closed world with the tokenizer of its text."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer, train_tokenizer
from components.data.world.comprehension import World
from components.data.world.config import WorldConfig
from components.data.world.files import DOCUMENTS, FACTS
from components.data.world.writer import write_world
from components.evaluation.factuality.predictions import Predictions
from components.labelling.labels import FactBits
from tests.labels import by_chance, labelled


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models of these sizes wait for their threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Told(NamedTuple):
    """A closed world, its documents, and a tokenizer that cuts them."""

    world: World
    documents: list[dict[str, Any]]
    facts: Path
    tokenizer: TextTokenizer


@pytest.fixture(scope="session")
def labels(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> FactBits:
    """Bits by chance: what is tested is where they land."""
    return labelled(tmp_path_factory.mktemp("labels"), prepared, by_chance(0.3)).facts(prepared)


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("told")
    write_world(WorldConfig(entities=40, documents_per_entity=1.5), folder)
    documents = [json.loads(line) for line in (folder / DOCUMENTS).read_text("utf-8").splitlines()]
    tokenizer = TextTokenizer(train_tokenizer([document["text"] for document in documents], 512))
    return Told(World.load(folder / FACTS), documents, folder / FACTS, tokenizer)


def predictions(
    right: Sequence[bool], factual: Sequence[bool], nats: Sequence[float] = (), sizes: Sequence[int] = ()
) -> Predictions:
    """Predictions of one document of which only this matters."""
    count = len(right)
    return Predictions(
        document=np.zeros(count, dtype=np.int64),
        place=np.arange(count),
        gold=np.zeros(count, dtype=np.int64),
        predicted=(~np.array(right, dtype=bool)).astype(np.int64),
        nats=np.array(nats or np.zeros(count), dtype=np.float64),
        entropy=np.zeros(count),
        margin=np.zeros(count),
        call=np.zeros(count),
        factual=np.array(factual, dtype=bool),
        bytes=np.array(sizes or np.ones(count), dtype=np.int64),
    )
