"""The stage ``chats``: conversations to windows of tokens, with a mask of what the assistant says.

The sources are read once for each split, as a stream. An interrupted run starts again from the beginning, downloads
excepted.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.core.atomic import full_disk_explained, replacing
from components.core.errors import InputError
from components.core.run import Run
from components.data.chats.artifact import Chats
from components.data.chats.columns import ASSISTANT, LEARNT, STATED
from components.data.chats.config import ChatsConfig, ConversationsConfig
from components.data.chats.conversation import Conversation
from components.data.chats.encoding import ChatEncoder, Encoded, check_template
from components.data.chats.from_world import WorldConversations
from components.data.chats.packing import Document, WindowWriter
from components.data.chats.reading import ConversationReader
from components.data.columns import BIT, ColumnsWriter
from components.data.gather import forget_downloads, gather
from components.data.prepared import PreparedData
from components.data.shards import ShardSet, ShardWriter
from components.data.sources import WORLD, SourceFile
from components.data.split import SPLITS, TEST, TRAIN, position, split_of
from components.data.world.config import WorldConfig
from components.data.world.files import DOCUMENTS, FACTS, QUESTIONS, WORLD_FOLDER
from components.finetune.replay import replayed, windows_for
from components.labelling.artifact import Labels


@dataclass
class Counts:
    """What became of the conversations."""

    kept: Counter[str] = field(default_factory=Counter)
    """By split."""
    cut: int = 0
    """Longer than the context, so cut after an answer."""
    dropped: int = 0
    """Not even the first answer fits the context."""
    tokens: Counter[str] = field(default_factory=Counter)
    """By split, padding and boundaries left out."""
    assistant_tokens: Counter[str] = field(default_factory=Counter)
    assistant_bytes: Counter[str] = field(default_factory=Counter)


def stage(run: Run, config: ChatsConfig, *, prepared: PreparedData, labels: Labels | None = None) -> Chats:
    """Encode the conversations of ``config`` with the tokenizer of ``prepared``, and pack them.

    Part of the windows replay the training text of ``prepared``; ``labels`` say where that states facts.

    Raises ``InputError`` for sources without usable conversations and for a tokenizer without the chat template,
    ``ServiceError`` for unreachable sources, ``DiskFullError``.
    """
    check_template(prepared.tokenizer_folder)
    for leftover in (Chats.SHARDS, Chats.COLUMNS, Chats.TOKENIZER):
        shutil.rmtree(run.folder / leftover, ignore_errors=True)
    shutil.copytree(prepared.tokenizer_folder, run.folder / Chats.TOKENIZER)
    source = _opened(run, config.conversations, prepared)
    counts, padding, replayed_windows = _write(run, config, source, prepared, labels)
    _keep_world(run.folder, source)
    _keep_held_out(run.folder / Chats.HELD_OUT, source)
    metrics = _metrics(ShardSet.open(run.folder / Chats.SHARDS), counts, padding, replayed_windows)
    run.log(metrics, None)
    run.report(1.0, f"{metrics['conversations']:,.0f} conversations, {metrics['tokens']:,.0f} tokens")
    rows = [("conversations", _described(counts))]
    return run.seal(metrics, _details(config, source, counts, prepared), rows, view=Chats)


@dataclass(frozen=True)
class _Source:
    """Where conversations come from, ready to be read any number of times."""

    config: ConversationsConfig
    world: WorldConversations | None
    fact_table: Path | None
    files: list[SourceFile]
    reader: ConversationReader

    def conversations(self, split: str) -> Iterator[Conversation]:
        """Those of ``split``."""
        if self.world is not None:
            yield from self.world.conversations(split)
        for each in self.reader.conversations(self.files):
            if self._split(each) == split:
                yield each

    def _split(self, conversation: Conversation) -> str:
        place = position((conversation.about or conversation.text).encode())
        return split_of(place, self.config.validation_fraction, self.config.test_fraction)


def _opened(run: Run, config: ConversationsConfig, prepared: PreparedData) -> _Source:
    raw = run.folder / Chats.RAW
    files: list[SourceFile] = []
    if config.files is not None:
        files = gather(config.files, raw, lambda fraction, message: run.report(0.1 * fraction, message))
        forget_downloads(raw)
    world = _world(config, prepared) if config.of_world else None
    reader = ConversationReader(config.layout, config.on_error == "skip")
    return _Source(config, world, prepared.fact_table, files, reader)


def _world(config: ConversationsConfig, prepared: PreparedData) -> WorldConversations:
    if prepared.fact_table is None or prepared.world_documents is None:
        raise InputError(
            f"the source {WORLD} asks about the closed world, but the data in {prepared.folder} holds none: name files "
            "of conversations in finetune.chat.data.sources, or set data.sources=[world]"
        )
    world = WorldConfig.model_validate(prepared.record.identity.config["world"])
    return WorldConversations(world, prepared.world_documents, config)


def _write(
    run: Run, config: ChatsConfig, source: _Source, prepared: PreparedData, labels: Labels | None
) -> tuple[Counts, int, int]:
    """Write shards and columns; returns counts, padding tokens and windows of replay."""
    tokenizer, shards = prepared.tokenizer(), prepared.shards()
    encoder, counts = ChatEncoder(tokenizer, config.context_length), Counts()
    folder = run.folder / Chats.SHARDS
    types = dict.fromkeys((ASSISTANT, LEARNT, STATED), BIT)
    texts = _WorldTexts(run.folder if source.world else None)
    with ColumnsWriter(run.folder / Chats.COLUMNS, types) as columns, texts:
        with ShardWriter(folder, tokenizer.vocab_size, tokenizer.end_of_text_id) as writer:
            windows = WindowWriter(writer, columns, config.context_length, tokenizer.padding_id)
            replay = 0
            for number, split in enumerate(SPLITS):
                run.report(0.1 + 0.3 * number, f"packing the conversations of {split}")
                encoded = _encoded(source.conversations(split), encoder, split, counts)
                count = windows.pack(split, (_document(each) for each in texts.kept(encoded)))
                if split == TRAIN and config.replay:
                    facts = labels.facts(prepared) if labels is not None else None
                    wanted = windows_for(config.replay, count)
                    for window in replayed(shards, facts, tokenizer, config.context_length, wanted):
                        texts.note(tokenizer.decode(piece.ids.tolist()) for piece in window)
                        windows.write(split, window)
                        replay += 1
                windows.finish(split)
            texts.note([""])
            _check(counts, config, source)
        columns.finish(ShardSet.open(folder))
    return counts, windows.padding, replay


def _encoded(
    conversations: Iterable[Conversation], encoder: ChatEncoder, split: str, counts: Counts
) -> Iterator[Encoded]:
    for each in conversations:
        encoded = encoder.encode(each)
        if encoded is None:
            counts.dropped += 1
            continue
        counts.kept[split] += 1
        counts.cut += len(encoded.conversation.turns) < len(each.turns)
        counts.tokens[split] += len(encoded.ids)
        counts.assistant_tokens[split] += int(encoded.assistant.sum())
        counts.assistant_bytes[split] += sum(
            len(turn.content.encode()) for turn in encoded.conversation.turns if turn.role == "assistant"
        )
        yield encoded


def _document(encoded: Encoded) -> Document:
    nothing = encoded.assistant & False
    n_bytes = len(encoded.conversation.text.encode())
    return Document(encoded.ids, n_bytes, encoded.assistant, encoded.assistant, nothing)


class _WorldTexts:
    """Writes what each document states, as the closed world's annotator looks it up: by the text itself."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / Chats.RAW / WORLD_FOLDER / DOCUMENTS if folder else None

    def __enter__(self) -> "_WorldTexts":
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", encoding="utf-8")
        return self

    def kept(self, encoded: Iterable[Encoded]) -> Iterator[Encoded]:
        """The same, noted."""
        for each in encoded:
            self._line(each.conversation.text, list(each.conversation.facts))
            yield each

    def note(self, texts: Iterable[str]) -> None:
        """Texts whose facts are known otherwise."""
        for text in texts:
            self._line(text, [])

    def _line(self, text: str, facts: Sequence[tuple[int, int, str]]) -> None:
        if self._path is not None:
            with full_disk_explained(self._path):
                self._file.write(json.dumps({"text": text, "facts": facts}, ensure_ascii=False) + "\n")

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._file.close()


def _check(counts: Counts, config: ChatsConfig, source: _Source) -> None:
    total = counts.kept.total()
    if not total:
        raise InputError(
            f"no conversation is left of {', '.join(source.config.sources)}: the first answer of {counts.dropped:,} "
            f"does not fit a context of {config.context_length} tokens, and {source.reader.skipped.total():,} lines "
            "held none. Give shorter conversations, or a model with a longer model.context_length"
        )
    if empty := [split for split in SPLITS if not counts.kept[split]]:
        raise InputError(
            f"{total:,} conversations are too few: by the hash of their text, none fell to {' or '.join(empty)}. Add "
            "conversations, or raise finetune.chat.data.validation_fraction and test_fraction"
        )


def _keep_world(folder: Path, source: _Source) -> None:
    """The fact table, and the questions that are held out, as a closed world keeps them."""
    if source.world is None or source.fact_table is None:
        return
    world = folder / Chats.RAW / WORLD_FOLDER
    shutil.copyfile(source.fact_table, world / FACTS)
    _write_lines(world / QUESTIONS, (question._asdict() for question in source.world.questions(TEST)))


def _keep_held_out(path: Path, source: _Source) -> None:
    _write_lines(path, ({"messages": each.messages()} for each in source.conversations(TEST)))


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with replacing(path) as temporary, full_disk_explained(path), temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _metrics(shards: ShardSet, counts: Counts, padding: int, replay: int) -> dict[str, float]:
    tokens = sum(split.n_tokens for split in shards.splits.values())
    return {
        "conversations": counts.kept.total(),
        "cut": counts.cut,
        "dropped": counts.dropped,
        "tokens": tokens,
        "assistant_share": counts.assistant_tokens.total() / counts.tokens.total(),
        "padding_share": padding / tokens,
        "replayed_windows": replay,
    }


def _described(counts: Counts) -> str:
    whole = f"{counts.kept[TRAIN]:,} to learn from, {counts.kept[TEST]:,} held out"
    return f"{whole}; {counts.cut:,} cut and {counts.dropped:,} dropped, longer than the context"


def _details(config: ChatsConfig, source: _Source, counts: Counts, prepared: PreparedData) -> dict[str, Any]:
    return {
        "vocab_size": prepared.shards().vocab_size,
        "context_length": config.context_length,
        "sources": [{"source": each} for each in source.config.sources],
        "splits": {
            split: {
                "conversations": counts.kept[split],
                "assistant_tokens": counts.assistant_tokens[split],
                "assistant_bytes": counts.assistant_bytes[split],
            }
            for split in SPLITS
        },
        "skipped": dict(source.reader.skipped),
    }
