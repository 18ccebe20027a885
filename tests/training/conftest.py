from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.shards import ShardSet, ShardWriter
from components.data.tokenizer import TextTokenizer, save_tokenizer, train_tokenizer

SENTENCES = [
    "The river runs from the old mountain to the quiet sea.",
    "A carpenter of the northern town built boats of oak.",
    "In winter the lake is frozen and children cross it on foot.",
    "She wrote three books about birds, and one about bread.",
]


def prepare(folder: Path, save: Callable[[Tokenizer, Path], None] = save_tokenizer) -> PreparedData:
    """A sealed prepare artifact of a few thousand tokens, with documents of many lengths."""
    run = Run.local(folder, "prepare")
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(SENTENCES, size=random.integers(1, 9))) for _ in range(400)]
    save(train_tokenizer(texts, 320), folder / PreparedData.TOKENIZER)
    tokenizer = TextTokenizer.load(folder / PreparedData.TOKENIZER)
    with ShardWriter(
        folder / PreparedData.SHARDS, tokenizer.vocab_size, tokenizer.end_of_text_id, shard_tokens=5000
    ) as writer:
        for number, text in enumerate(texts):
            split = {0: "validation", 1: "test"}.get(number % 20, "train")
            writer.add(split, tokenizer.encode(text), len(text.encode()))
    return run.seal({}, {"vocab_size": tokenizer.vocab_size}, view=PreparedData)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def shards(prepared: PreparedData) -> ShardSet:
    return prepared.shards()
