"""The layouts in which people keep conversations: a row of a file to a conversation."""

from collections.abc import Callable, Mapping
from typing import Any

from components.core.errors import InputError
from components.data.chats.config import Layout
from components.data.chats.conversation import ASSISTANT, SYSTEM, USER, Conversation, conversation

Row = Mapping[str, Any]
_LISTS = ("messages", "conversations", "conversation")
_ROLE, _CONTENT = ("role", "from"), ("content", "value")
_RESPONSES = ("response", "completion", "answer")


def read_row(row: object, layout: Layout, place: str) -> Conversation:
    """The conversation in ``row``; raises ``InputError`` if there is none in this layout."""
    if not isinstance(row, Mapping):
        raise InputError(f"{place} is {type(row).__name__}, not an object with fields")
    return conversation(place, _READERS[layout if layout != "auto" else _layout(row, place)](row, place))


def _layout(row: Row, place: str) -> Layout:
    if any(name in row for name in _LISTS):
        return "messages"
    if "instruction" in row and "output" in row:
        return "alpaca"
    if "prompt" in row and any(name in row for name in _RESPONSES):
        return "prompt"
    raise InputError(
        f"{place} holds no conversation in a known layout; its fields are {sorted(row)[:12]}. Allowed are messages or "
        "conversations (a list of turns), prompt and response, or instruction, input and output"
    )


def _messages(row: Row, place: str) -> list[tuple[str, str]]:
    turns = next((row[name] for name in _LISTS if name in row), None)
    if not isinstance(turns, list):
        raise InputError(f"{place} has no list of turns under {' or '.join(_LISTS)}")
    return [(_text(turn, _ROLE, place), _text(turn, _CONTENT, place)) for turn in turns]


def _prompt(row: Row, place: str) -> list[tuple[str, str]]:
    if isinstance(row.get("prompt"), list):
        answer = row.get("response", row.get("completion"))
        return _messages({"messages": [*row["prompt"], *(answer if isinstance(answer, list) else [])]}, place)
    said = [(USER, _text(row, ("prompt",), place)), (ASSISTANT, _text(row, _RESPONSES, place))]
    return [(SYSTEM, str(row["system"])), *said] if row.get("system") else said


def _alpaca(row: Row, place: str) -> list[tuple[str, str]]:
    asked = _text(row, ("instruction",), place)
    given = row.get("input") or ""
    if not isinstance(given, str):
        raise InputError(f"{place}: its 'input' is {type(given).__name__}, not text")
    return [(USER, f"{asked}\n\n{given}" if given.strip() else asked), (ASSISTANT, _text(row, ("output",), place))]


_READERS: Mapping[Layout, Callable[[Row, str], list[tuple[str, str]]]] = {
    "messages": _messages,
    "prompt": _prompt,
    "alpaca": _alpaca,
}


def _text(row: object, names: tuple[str, ...], place: str) -> str:
    value = next((row[name] for name in names if name in row), None) if isinstance(row, Mapping) else None
    if not isinstance(value, str):
        raise InputError(f"{place} has no text under {' or '.join(names)}: found {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON may spell half a surrogate pair
        raise InputError(f"{place} holds text that is not valid Unicode ({error.reason})") from error
    return value
