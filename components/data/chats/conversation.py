"""A conversation: turns of known roles, none empty, in which the assistant speaks."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from components.core.errors import InputError

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)
_ALSO = {"human": USER, "prompter": USER, "gpt": ASSISTANT, "bot": ASSISTANT, "model": ASSISTANT}


class Turn(NamedTuple):
    """What one side says."""

    role: str
    content: str

    @property
    def text(self) -> str:
        """As it reads between the special tokens."""
        return f"{self.role}\n{self.content}"


class Fact(NamedTuple):
    """Characters ``start`` to ``end`` (excluded) of the text of a conversation state the fact of that id."""

    start: int
    end: int
    id: str


class Conversation(NamedTuple):
    """Turns in order; ``place`` names where they are from, for errors."""

    place: str
    turns: tuple[Turn, ...]
    about: str = ""
    """Conversations about the same belong to the same split; empty: about itself alone."""
    facts: tuple[Fact, ...] = ()
    """What the assistant states, where that is known."""

    @property
    def text(self) -> str:
        """What its tokens spell, without the special ones."""
        return "".join(turn.text + "\n" for turn in self.turns)

    def messages(self) -> list[dict[str, str]]:
        """As a server takes them."""
        return [turn._asdict() for turn in self.turns]

    def first(self, count: int) -> "Conversation":
        """Its first turns alone."""
        kept = self._replace(turns=self.turns[:count])
        length = len(kept.text)
        return kept._replace(facts=tuple(fact for fact in self.facts if fact.end <= length))

    def exchanges(self) -> Iterator[int]:
        """After how many turns it may end: wherever the assistant has spoken."""
        return (number for number, turn in enumerate(self.turns, 1) if turn.role == ASSISTANT)


def conversation(place: str, said: Sequence[tuple[str, str]]) -> Conversation:
    """A conversation of roles and contents, white space around contents dropped.

    Raises ``InputError`` for unknown roles, for empty turns, and if the assistant never speaks.
    """
    turns = [Turn(_role(place, number, role), content.strip()) for number, (role, content) in enumerate(said, 1)]
    if empty := next((number for number, turn in enumerate(turns, 1) if not turn.content), None):
        raise InputError(f"{place}, turn {empty} ({turns[empty - 1].role}) is empty: every turn says something")
    if ASSISTANT not in {turn.role for turn in turns}:
        raise InputError(f"{place} has {len(turns)} turns, but the assistant never speaks: there is nothing to learn")
    return Conversation(place, tuple(turns))


def _role(place: str, number: int, role: str) -> str:
    known = _ALSO.get(role.lower(), role.lower())
    if known not in ROLES:
        raise InputError(
            f"{place}, turn {number} has the unknown role {role!r}: allowed are {', '.join(ROLES)} "
            f"(or {', '.join(_ALSO)})"
        )
    return known
