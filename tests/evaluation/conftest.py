"""A small corpus with known facts, its tokenizer and shards, and two real models: one untrained, one trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.shards import ShardSet, ShardWriter
from components.data.tokenizer import TextTokenizer, save_tokenizer, train_tokenizer
from components.data.world.files import QUESTIONS, WORLD_FOLDER
from components.evaluation.likelihood import Ids
from components.model.bundle import Bundle
from components.model.checkpoint import save_model
from components.model.config import ModelConfig
from components.model.ops import linear_cross_entropy
from components.model.transformer import Transformer
from tests.fakes import SPECIAL

SHAPE = ModelConfig(name="test", layers=2, width=64, hidden_width=128, heads=4, kv_heads=2, context_length=48)
NAMES = ["Ada", "Bram", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hedda"]
TOWNS = ["Orlen", "Tervik", "Maruba", "Quessa", "Lindau", "Ostrel", "Pavia", "Zomer"]
TRADES = ["weaver", "painter", "smith", "miller"]


def article(random: np.random.Generator) -> str:
    """Some sentences; everyone's birthplace never changes, their trade does."""
    lines = []
    for i in random.integers(len(NAMES), size=random.integers(2, 9)):
        trade = TRADES[random.integers(len(TRADES))]
        lines.append(f"{NAMES[i]} was born in {TOWNS[i]} and worked as a {trade}.")
    return " ".join(lines)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """What the prepare stage leaves, for 400 articles."""
    random = np.random.default_rng(0)
    texts = [article(random) for _ in range(400)]
    run = Run.local(tmp_path_factory.mktemp("prepared"), "prepare")
    save_tokenizer(train_tokenizer(texts, 320), run.folder / PreparedData.TOKENIZER)
    tokenizer = TextTokenizer.load(run.folder / PreparedData.TOKENIZER)
    parts = {"train": texts[:340], "validation": texts[340:360], "test": texts[360:]}
    with ShardWriter(run.folder / PreparedData.SHARDS, tokenizer.vocab_size, tokenizer.end_of_text_id) as writer:
        for split, members in parts.items():
            for text in members:
                writer.add(split, tokenizer.encode(text), len(text.encode()))
    world = run.folder / PreparedData.RAW / WORLD_FOLDER
    world.mkdir(parents=True)
    (world / QUESTIONS).write_text(
        "".join(
            json.dumps(
                {
                    "id": f"q{i}",
                    "question": f"Where was {name} born?",
                    "prompt": f"{name} was born in",
                    "answer": town,
                    "aliases": [],
                    "fact": f"f{i}",
                    "mentions": 3 * i,
                    "stated": i,
                }
            )
            + "\n"
            for i, (name, town) in enumerate(zip(NAMES, TOWNS, strict=True))
        )
    )
    splits = {
        name: {"documents": split.n_documents, "tokens": split.n_tokens, "bytes": split.n_bytes}
        for name, split in ShardSet.open(run.folder / PreparedData.SHARDS).splits.items()
    }
    return run.seal(
        {},
        {
            "vocab_size": tokenizer.vocab_size,
            "splits": splits,
            "sources": [{"source": "a_b.txt", "bytes": 1}],
        },
        view=PreparedData,
    )


@pytest.fixture(scope="session")
def tokenizer(prepared: PreparedData) -> TextTokenizer:
    return prepared.tokenizer()


@pytest.fixture(scope="session")
def test_documents(prepared: PreparedData) -> tuple[list[Ids], list[int]]:
    """Ids and bytes of the test split."""
    split = prepared.shards().splits["test"]
    return [split.document(i) for i in range(split.n_documents)], split.documents[:, 2].tolist()


@pytest.fixture(scope="session")
def untrained(tokenizer: TextTokenizer) -> Transformer:
    torch.manual_seed(0)
    return Transformer(SHAPE, tokenizer.vocab_size).eval()


@pytest.fixture(scope="session")
def trained(prepared: PreparedData, tokenizer: TextTokenizer) -> Transformer:
    """The same shape after 200 steps: it knows the sentences, and most birthplaces."""
    return learn(prepared, tokenizer, steps=200)


def learn(prepared: PreparedData, tokenizer: TextTokenizer, steps: int, learning_rate: float = 3e-3) -> Transformer:
    """Train on random windows, each beginning at the start of a document."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    split = prepared.shards().splits["train"]
    model = Transformer(SHAPE, tokenizer.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01)
    for _ in range(steps):
        rows = np.full((16, SHAPE.context_length + 1), -100)
        for row in rows:
            ids = split.document(int(random.integers(split.n_documents)))
            document = np.concatenate(([tokenizer.end_of_text_id], ids, [tokenizer.end_of_text_id]))[: len(row)]
            row[: len(document)] = document
        inputs, targets = torch.from_numpy(rows[:, :-1]).clamp_min(0), torch.from_numpy(rows[:, 1:])
        nats = linear_cross_entropy(model(inputs).flatten(0, 1), model.output_weight, targets.flatten())
        (nats.sum() / (targets >= 0).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def bundle(folder: Path, model: Transformer, prepared: PreparedData) -> Bundle:
    """A model and its tokenizer in one flat folder, as they are registered."""
    run = Run.local(folder, "bundle")
    save_model(model, folder, SPECIAL)
    for path in prepared.tokenizer_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return run.seal({}, view=Bundle)
