"""The stage ``classify-texts``: labelled texts in, packed windows with a label at the end of each text out.

A window begins behind a boundary token and ends with one. The texts in it do not see each other, and the rest of it is
boundaries, documents without a token. A text that is longer than a window is cut at its end. The column of labels has
-1 everywhere but at the boundary that ends a text: there the number of its label or, where a text may have several, a
row of zeros and ones. A second column has the number of the text in its split at that place.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int

from components.core.atomic import write_text
from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.columns import ColumnsWriter, ColumnType
from components.data.packing import best_fit
from components.data.prepared import PreparedData
from components.data.shards import ShardSet, ShardWriter
from components.data.split import TEST
from components.data.tokenizer import TextTokenizer, tokenizer_digest
from components.finetune.classify.artifacts import LabelledTexts
from components.finetune.classify.columns import LABEL, TEXT, UNLABELLED
from components.finetune.classify.config import LabelledTextsConfig
from components.finetune.classify.labelled import LabelledText, check_labels, label_set
from components.finetune.classify.labels import LabelSet
from components.finetune.classify.reading import read_texts
from components.finetune.classify.splits import Splits, divided
from components.model.llama_config import read_config
from components.training.trained import TrainedModel


def stage(run: Run, config: LabelledTextsConfig, *, prepared: PreparedData, base: TrainedModel) -> LabelledTexts:
    """Read, divide and pack the texts of ``config`` for the context and with the tokenizer of ``base``.

    Raises ``InputError`` for texts or labels that cannot be used, ``ArtifactError`` if ``base`` has another tokenizer
    than ``prepared``.
    """
    tokenizer = _tokenizer(prepared, base)
    context_length = read_config(base.model_folder)[0].context_length
    splits, labels = _labelled(config, prepared)
    writer = _Writer(run.folder, tokenizer, context_length, labels)
    for split, texts in splits.texts.items():
        run.report(0.3, f"packing {len(texts):,} texts of {split}")
        writer.write(split, texts)
    writer.finish()
    shutil.copytree(prepared.tokenizer_folder, run.folder / LabelledTexts.TOKENIZER, dirs_exist_ok=True)
    write_text(run.folder / LabelledTexts.LABELS, labels.model_dump_json(indent=2) + "\n")
    counts = {split: len(texts) for split, texts in splits.texts.items()}
    metrics = {
        **{f"{split}_texts": float(count) for split, count in counts.items()},
        "cut_texts": float(writer.cut),
        "near_duplicates": float(splits.near_duplicates),
        "padding": writer.padding / writer.tokens,
    }
    run.log(metrics, None)
    rows = [("labelled texts", f"{counts['train']:,} with {len(labels.labels)} labels, {counts[TEST]:,} for the test")]
    return run.seal(metrics, {"labels": labels.labels, "kind": labels.kind}, rows, view=LabelledTexts)


def _tokenizer(prepared: PreparedData, base: TrainedModel) -> TextTokenizer:
    if tokenizer_digest(base.model_folder) != prepared.tokenizer_digest():
        raise ArtifactError(
            f"the base in {base.model_folder} has another tokenizer than the data in {prepared.folder}: give the data "
            "that it was trained on"
        )
    return prepared.tokenizer()


def _labelled(config: LabelledTextsConfig, prepared: PreparedData) -> tuple[Splits, LabelSet]:
    train, test = (read_texts(sources, config, prepared) for sources in (config.train, config.test))
    splits = divided(train, test, config)
    labels = label_set(train, config.labels)
    check_labels(test, labels)
    if empty := [name for name, texts in splits.texts.items() if not texts]:
        raise InputError(
            f"of {len(train):,} texts to train and {len(test):,} to test, none is left for {' and '.join(empty)} "
            f"({splits.near_duplicates:,} test texts nearly repeat a training text and were left out): give more texts"
        )
    return splits, LabelSet(kind=config.kind, labels=labels)


@dataclass
class _Writer:
    """Writes texts to shards, to the column of labels, and as they are."""

    folder: Path
    tokenizer: TextTokenizer
    context_length: int
    labels: LabelSet
    cut: int = 0
    """Texts that were longer than a window."""
    padding: int = 0
    tokens: int = 0
    _shards: ShardWriter = field(init=False)
    _columns: ColumnsWriter = field(init=False)

    def __post_init__(self) -> None:
        boundary = self.tokenizer.end_of_text_id
        self._shards = ShardWriter(self.folder / LabelledTexts.SHARDS, self.tokenizer.vocab_size, boundary)
        width = len(self.labels.labels) if self.labels.kind == "multi" else 0
        type = ColumnType(dtype="int16", width=width, fill=UNLABELLED)
        types = {LABEL: type, TEXT: ColumnType(dtype="int32", fill=UNLABELLED)}
        self._columns = ColumnsWriter(self.folder / LabelledTexts.COLUMNS, types)
        self._unlabelled = np.full(type.shape, UNLABELLED, dtype=np.int16)

    def write(self, split: str, texts: Sequence[LabelledText]) -> None:
        """Pack the texts of a split."""
        documents = [self._encoded(text) for text in texts]
        self._add(split, [], 0, self._unlabelled)  # the boundary that the first window begins behind
        for window in best_fit([len(ids) + 1 for ids in documents], self.context_length):
            for number in window:
                text = texts[number]
                self._add(split, documents[number], len(text.text.encode()), self._label(text), number)
            self._pad(split, self.context_length - sum(len(documents[number]) + 1 for number in window))
        lines = "".join(f"{text.model_dump_json()}\n" for text in texts)
        write_text(self.folder / LabelledTexts.TEXTS / f"{split}.jsonl", lines)

    def finish(self) -> None:
        """Close the files, and write the index of each kind."""
        self._shards.close()
        self._columns.finish(ShardSet.open(self.folder / LabelledTexts.SHARDS))

    def _encoded(self, text: LabelledText) -> list[int]:
        ids = self.tokenizer.encode(text.text)
        self.cut += len(ids) >= self.context_length
        return ids[: self.context_length - 1]

    def _label(self, text: LabelledText) -> Int[np.ndarray, "*labels"]:
        numbers = self.labels.numbers(text.labels)
        if self.labels.kind == "single":
            return np.array(numbers[0], dtype=np.int16)
        return np.isin(np.arange(len(self.labels.labels)), numbers).astype(np.int16)

    def _pad(self, split: str, tokens: int) -> None:
        for _ in range(tokens):
            self._add(split, [], 0, self._unlabelled)
        self.padding += tokens

    def _add(
        self, split: str, ids: Sequence[int], n_bytes: int, label: Int[np.ndarray, "*labels"], text: int = UNLABELLED
    ) -> None:
        self._shards.add(split, ids, n_bytes)
        labels = np.stack([*[self._unlabelled] * len(ids), label])
        self._columns.append(split, {LABEL: labels, TEXT: np.array([UNLABELLED] * len(ids) + [text], dtype=np.int32)})
        self.tokens += len(ids) + 1
