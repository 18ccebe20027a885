"""Reads pairs of answers, one of which people prefer, from the layouts in which such sets are published.

    {"prompt": "...", "chosen": "...", "rejected": "..."}           also "instruction" with "input"
    {"conversations": [...], "chosen": {...}, "rejected": {...}}    turns with from/value or role/content
    {"chosen": "\\n\\nHuman: ...", "rejected": "\\n\\nHuman: ..."}      two whole dialogues (Anthropic's hh-rlhf)

Both sides become dialogues. They must share all turns but the last one, which is the assistant's.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from components.core.errors import InputError
from components.data.rows import parsed, placed_rows
from components.data.sources import SourceFile

Message = dict[str, str]
"""``role`` and ``content``, as chat templates take it."""

ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant",
    "system": "system",
}  # fmt: skip
_PROMPTS = ("prompt", "instruction", "conversations", "messages")
_DIALOGUE = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt."""

    place: str
    """Where it was read, for people."""
    group: str
    """Pairs of one group are in the same split: they share a prompt, or speak of the same subject."""
    prompt: tuple[Message, ...]
    """The turns before the answers; the last one is the user's."""
    chosen: str
    rejected: str


class PairError(Exception):
    """Why a row is no pair: ``reason`` for counting, the message for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class PairReader:
    """Reads pairs; rows that are none stop it, or are left out and counted in ``skipped`` by reason."""

    on_error: Literal["fail", "skip"] = "fail"
    skipped: Counter[str] = field(default_factory=Counter)

    def pairs(self, files: Iterable[SourceFile]) -> Iterator[Pair]:
        """All pairs of ``files`` in order; raises ``InputError`` that names the file and the line or row."""
        for file in files:
            for place, row in placed_rows(file, "pairs of answers"):
                found = parsed(row, place)
                try:
                    yield pair_of(found, place)
                except PairError as error:
                    if self.on_error == "fail":
                        raise InputError(
                            f"{place} {error}. Mend the file, or leave such rows out and count them with "
                            "finetune.preference.pairs.on_error=skip"
                        ) from error
                    self.skipped[error.reason] += 1


def pair_of(row: object, place: str = "") -> Pair:
    """The pair in a row of any layout; raises ``PairError`` if it is none."""
    if not isinstance(row, Mapping):
        raise PairError("no pair", f"is {type(row).__name__}, not an object with the fields chosen and rejected")
    prompt = _prompt(row)
    chosen, rejected = ([*prompt, *_turns(row, side, alone=not prompt)] for side in ("chosen", "rejected"))
    if chosen == rejected:
        raise PairError("identical answers", "has identical answers: nothing can be preferred")
    shared = next(index for index in range(len(chosen) + 1) if chosen[index : index + 1] != rejected[index : index + 1])
    if not all([each["role"] for each in side[shared:]] == ["assistant"] for side in (chosen, rejected)):
        raise PairError(
            "no common prompt", "has dialogues that differ elsewhere than in the last turn of the assistant"
        )
    prompt = chosen[:shared]
    if not prompt or prompt[-1]["role"] != "user":
        raise PairError("no common prompt", "has a prompt that does not end with a turn of the user")
    return Pair(place, json.dumps(prompt), tuple(prompt), chosen[-1]["content"], rejected[-1]["content"])


def _prompt(row: Mapping[str, Any]) -> list[Message]:
    """The turns that a field of their own holds; none for whole dialogues."""
    name = next((name for name in _PROMPTS if row.get(name)), None)
    if name is None:
        return []
    if not isinstance(row[name], str):
        return _messages(row[name], name)
    more = row.get("input") if name == "instruction" else None
    return [_message("user", f"{row[name]}\n\n{more}" if more else row[name], name)]


def _turns(row: Mapping[str, Any], side: str, alone: bool) -> list[Message]:
    """The turns in ``chosen`` or ``rejected``; ``alone`` without a prompt beside them."""
    given = row.get(side)
    if isinstance(given, str):
        return _dialogue(given, side) if alone else [_message("assistant", given, side)]
    return _messages(given if isinstance(given, Sequence) else [given], side)


def _dialogue(text: str, side: str) -> list[Message]:
    before, *parts = _DIALOGUE.split(text)
    if before or not parts:
        raise PairError(
            "no pair",
            f"has no prompt, and its {side!r} is no dialogue that begins with '\\n\\nHuman:': give one of the fields "
            f"{', '.join(_PROMPTS)}",
        )
    return [_message(role, words, side) for role, words in zip(parts[::2], parts[1::2], strict=True)]


def _messages(given: object, name: str) -> list[Message]:
    if not isinstance(given, Sequence) or not all(isinstance(each, Mapping) for each in given):
        raise PairError("no pair", f"has no turns in {name!r}: give texts, or objects with role and content")
    return [
        _message(each.get("role", each.get("from")), each.get("content", each.get("value")), name) for each in given
    ]


def _message(role: object, words: object, name: str) -> Message:
    known = ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise PairError("unknown role", f"has the unknown role {role!r} in {name!r}: known are {', '.join(ROLES)}")
    if not isinstance(words, str) or not words.strip():
        raise PairError("empty turn", f"has a turn without words in {name!r}")
    return {"role": known, "content": words.strip()}
