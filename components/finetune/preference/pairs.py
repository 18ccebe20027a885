"""The stage ``preferences``: pairs of answers in, token shards out that an objective can compare.

Both answers of a pair stand in one window of the context length, each after the prompt and as a document of its own, so
neither sees the other. A window is filled up with padding. The shards begin with one boundary token, and every window
of the loader ends with one: the first token of each is then predicted from a boundary, as everywhere else.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from components.core.atomic import write_text
from components.core.errors import InputError
from components.core.run import Run
from components.data.chats.encoding import check_template
from components.data.columns import ColumnsWriter, ColumnType
from components.data.config import DataConfig
from components.data.gather import gather
from components.data.packing import best_fit
from components.data.preferences import Pair, PairReader
from components.data.prepared import PreparedData
from components.data.shards import ShardSet, ShardWriter
from components.data.sources import WORLD
from components.data.split import SPLITS, position, split_of
from components.data.tokenizer import TextTokenizer, tokenizer_digest
from components.data.world.preferences import preferences
from components.data.world.table import FactTable
from components.finetune.preference.artifact import ANSWER, PairRecord, Pairs
from components.finetune.preference.config import PairsConfig
from components.model.llama_config import read_config
from components.training.trained import TrainedModel

_TOO_LONG = "longer than the context"


@dataclass(frozen=True)
class EncodedPair:
    """A pair in tokens."""

    pair: Pair
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def tokens(self) -> int:
        """Of both documents, the boundaries after them included."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected) + 2


def stage(run: Run, config: PairsConfig, *, prepared: PreparedData, model: TrainedModel) -> Pairs:
    """Read the pairs that ``config`` names, and pack them for ``model``, which was trained on ``prepared``.

    Raises ``InputError`` for rows that are no pairs, if no pair is left for a split, and if the tokenizer of ``model``
    has no chat template or another one.
    """
    check_template(model.model_folder)
    tokenizer = TextTokenizer.load(model.model_folder)
    context_length = read_config(model.model_folder)[0].context_length
    reader = PairReader(config.on_error)
    pairs = [_encoded(pair, tokenizer) for pair in _limited(list(_read(run, config, prepared, reader)), config)]
    left_out = Counter(reader.skipped)
    left_out[_TOO_LONG] = sum(pair.tokens > context_length for pair in pairs)
    by_split: dict[str, list[EncodedPair]] = {split: [] for split in SPLITS}
    for pair in pairs:
        if pair.tokens <= context_length:
            by_split[_split(pair.pair, config)].append(pair)
    _check(by_split, left_out, context_length)
    records = list(_write(run.folder, by_split, tokenizer, context_length))
    write_text(run.folder / Pairs.RECORDS, "".join(record.model_dump_json() + "\n" for record in records))
    counts = {split: len(pairs) for split, pairs in by_split.items()}
    longer = sum(record.chosen_is_longer for record in records) / len(records)
    metrics = {
        "pairs": float(len(records)),
        "chosen_is_longer": longer,
        **{f"left_out/{reason.replace(' ', '_')}": float(count) for reason, count in left_out.items()},
    }
    details = {
        "tokenizer": tokenizer_digest(model.model_folder),
        "call_id": tokenizer.call_id,
        "context_length": context_length,
        "pairs": counts,
        "left_out": dict(left_out),
    }
    row = f"{counts['train']:,} to learn from, {counts['validation']:,} and {counts['test']:,} held out"
    return run.seal(metrics, details, [("pairs of answers", row)], view=Pairs)


def _read(run: Run, cfg: PairsConfig, prepared: PreparedData, reader: PairReader) -> Iterator[Pair]:
    for source in cfg.sources:
        if source == WORLD:
            yield from _of_world(cfg, prepared)
        else:
            settings = DataConfig(sources=[source], keep_sources=False)
            with TemporaryDirectory(dir=run.folder) as downloads:
                yield from reader.pairs(gather(settings, Path(downloads), run.report))


def _of_world(cfg: PairsConfig, prepared: PreparedData) -> Iterator[Pair]:
    if prepared.fact_table is None:
        raise InputError(
            "finetune.preference.pairs.sources names the closed world, and the model was not trained on it: name files "
            "of pairs instead"
        )
    for each in preferences(FactTable.load(prepared.fact_table), cfg.max_pairs):
        yield Pair(WORLD, each.subject, ({"role": "user", "content": each.question},), each.true, each.false)


def _limited(pairs: Sequence[Pair], cfg: PairsConfig) -> list[Pair]:
    order = np.random.default_rng(0).permutation(len(pairs))[: cfg.max_pairs]
    return [pairs[number] for number in sorted(order.tolist())]


def _encoded(pair: Pair, tokenizer: TextTokenizer) -> EncodedPair:
    """Prompt and answers as the server would encode and write them."""
    answers = ([*tokenizer.encode(answer), tokenizer.im_end_id] for answer in (pair.chosen, pair.rejected))
    return EncodedPair(pair, tokenizer.encode_chat(pair.prompt), *answers)


def _split(pair: Pair, cfg: PairsConfig) -> str:
    return split_of(position(pair.group.encode()), cfg.validation_fraction, cfg.test_fraction)


def _check(by_split: dict[str, list[EncodedPair]], left_out: Counter[str], context_length: int) -> None:
    if empty := [split for split, pairs in by_split.items() if not pairs]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count) or "none"
        raise InputError(
            f"no pair of answers is left for {', '.join(empty)} (left out: {reasons}; a pair, the prompt twice, must "
            f"fit {context_length} tokens): give more or shorter pairs, raise the fractions in "
            "finetune.preference.pairs, or take a model with a longer context"
        )


def _write(
    folder: Path, by_split: dict[str, list[EncodedPair]], tokenizer: TextTokenizer, context_length: int
) -> Iterator[PairRecord]:
    """Write the shards and the column; yields the pairs in the order in which they stand there."""
    with ColumnsWriter(folder / Pairs.COLUMNS, {ANSWER: ColumnType(dtype="int16")}) as columns:
        with ShardWriter(folder / Pairs.SHARDS, tokenizer.vocab_size, tokenizer.end_of_text_id) as shards:
            for split, pairs in by_split.items():
                document = _Documents(split, shards, columns)
                document.add([], [])
                for window in _windows(pairs, context_length):
                    for number, each in enumerate(window, 1):
                        document.add(each.prompt, each.chosen, number, each.pair.chosen)
                        document.add(each.prompt, each.rejected, -number, each.pair.rejected)
                        yield PairRecord(split=split, **{**vars(each.pair), "prompt": list(each.pair.prompt)})
                    if rest := context_length - sum(each.tokens for each in window):
                        document.add([tokenizer.padding_id] * (rest - 1), [])
        columns.finish(ShardSet.open(folder / Pairs.SHARDS))


def _windows(pairs: Sequence[EncodedPair], context_length: int) -> Iterator[list[EncodedPair]]:
    """Shuffled: validation looks at the first ones, and best fit begins with the longest pairs."""
    windows = best_fit([pair.tokens for pair in pairs], context_length)
    for number in np.random.default_rng(0).permutation(len(windows)).tolist():
        yield [pairs[index] for index in windows[number]]


@dataclass(frozen=True)
class _Documents:
    """Writes documents with their column."""

    split: str
    shards: ShardWriter
    columns: ColumnsWriter

    def add(self, prompt: Sequence[int], answer: Sequence[int], mark: int = 0, text: str = "") -> None:
        self.shards.add(self.split, [*prompt, *answer], len(text.encode()))
        marks = np.zeros(len(prompt) + len(answer) + 1, dtype=np.int16)
        marks[len(prompt) : -1] = mark
        self.columns.append(self.split, {ANSWER: marks})
