"""Conversations to ids, exactly as a server encodes them, and which of these ids the assistant writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from components.core.errors import InputError
from components.data.chats.conversation import ASSISTANT, Conversation, Turn
from components.data.special_tokens import CHAT_TEMPLATE_FILE
from components.data.tokenizer import CHAT_TEMPLATE, TextTokenizer


class Encoded(NamedTuple):
    """The ids of a conversation."""

    conversation: Conversation
    ids: Int[np.ndarray, " tokens"]
    assistant: Bool[np.ndarray, " tokens"]
    """Those that the assistant writes: what it says, and the end of its turn."""


class ChatEncoder:
    """Encodes conversations for windows of ``context_length`` tokens."""

    def __init__(self, tokenizer: TextTokenizer, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._room = context_length - 1  # the boundary takes a place
        self._newline = len(tokenizer.encode("\n"))
        self._opening = tokenizer.encode_chat([], add_generation_prompt=True)

    def encode(self, conversation: Conversation) -> Encoded | None:
        """The conversation, cut after the last answer that fits; ``None`` if not even the first one does."""
        turns = [self._turn(turn, conversation.place) for turn in conversation.turns]
        lengths = np.cumsum([len(ids) for ids, _ in turns])
        whole = lengths[-1] <= self._room
        fitting = [count for count in conversation.exchanges() if lengths[count - 1] <= self._room]
        if not fitting:
            return None
        kept = len(turns) if whole else fitting[-1]
        ids, assistant = (np.concatenate(parts) for parts in zip(*turns[:kept], strict=True))
        return Encoded(conversation.first(kept), ids, assistant)

    def _turn(self, turn: Turn, place: str) -> tuple[Int[np.ndarray, " tokens"], Bool[np.ndarray, " tokens"]]:
        ids = self._tokenizer.encode_chat([turn._asdict()], add_generation_prompt=False)
        said = np.zeros(len(ids), dtype=bool)
        if turn.role == ASSISTANT:
            if ids[: len(self._opening)] != self._opening:
                raise InputError(
                    f"{place}: the answer {turn.content[:40]!r} begins within a token of the chat template, so a "
                    "server would encode it otherwise: give a tokenizer that ends a token at a line end"
                )
            said[len(self._opening) : len(ids) - self._newline] = True
        return np.array(ids, dtype=np.int64), said


def check_template(folder: Path) -> None:
    """Raise ``InputError`` unless the tokenizer in ``folder`` has the chat template that ``ChatEncoder`` follows."""
    path = folder / CHAT_TEMPLATE_FILE
    if not path.is_file():
        raise InputError(
            f"the tokenizer in {folder} has no chat template ({CHAT_TEMPLATE_FILE}): without one, no server knows how "
            "a conversation is written. Prepare the data again, or add the template"
        )
    if path.read_text(encoding="utf-8").strip() != CHAT_TEMPLATE.strip():
        raise InputError(
            f"{path} is another chat template than ChatML, which this platform trains and serves: take its tokenizer "
            "without the template, or prepare the data again"
        )


def tokens_of(encoded: Sequence[Encoded]) -> int:
    """All their tokens."""
    return sum(len(each.ids) for each in encoded)
