"""The held-out text on which both models are judged: bytes, and which of them state facts.

Facts are labelled per token of the challenger's tokenizer. As bytes, the labels serve any other tokenizer too.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.evaluation.config import GateConfig
from components.evaluation.heldout import chosen, held_out
from components.labelling.artifact import Labels


@dataclass(frozen=True)
class Document:
    """One held-out document."""

    name: str
    """Split and number, by which both models' results are paired."""
    text: str
    factual: Bool[np.ndarray, " bytes"]
    """Of every byte of the text in UTF-8: whether it belongs to a token that states a fact."""
    asked: bool
    """Whether the calls in it are carried out."""

    @cached_property
    def raw(self) -> bytes:
        return self.text.encode()

    def factual_tokens(self, sizes: Int[np.ndarray, " tokens"]) -> Bool[np.ndarray, " tokens"]:
        """Which tokens of these sizes in bytes hold a byte that states a fact; together they are the text."""
        counted = np.concatenate(([0], np.cumsum(self.factual)))
        ends = np.minimum(np.cumsum(sizes), len(self.factual))
        starts = np.concatenate(([0], ends[:-1]))
        stated: Bool[np.ndarray, " tokens"] = counted[ends] > counted[starts]
        return stated


def held_out_documents(prepared: PreparedData, labels: Labels | None, cfg: GateConfig) -> list[Document]:
    """Documents of the test split, by the fixed shuffle; without ``labels`` no byte of them is factual."""
    split = held_out(prepared.shards())
    tokenizer = prepared.tokenizer()
    facts = labels.facts(prepared) if labels is not None else None
    lengths = split.documents[:, 1]
    numbers = chosen(lengths, cfg.max_documents, cfg.max_tokens).tolist()
    asked = set(chosen(lengths, cfg.max_documents, min(cfg.fact_tokens, cfg.max_tokens)).tolist())
    documents = []
    for number, text in zip(numbers, prepared.texts(split.name, numbers), strict=True):
        start, length = (int(value) for value in split.documents[number, :2])
        bits = facts.slice(split.name, start, start + length) if facts else np.zeros(length, dtype=bool)
        sizes = token_sizes(tokenizer, split.document(number))
        documents.append(Document(f"{split.name} {number}", text, np.repeat(bits, sizes), number in asked))
    return documents


def token_sizes(tokenizer: TextTokenizer, ids: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
    """The length of every token in bytes."""
    return np.array([len(tokenizer.token_bytes(int(id))) for id in ids], dtype=np.int64)
