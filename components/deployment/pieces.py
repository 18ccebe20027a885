"""What each decision wrote of a streamed answer: by whom, and how strongly the model asked for help there.

A decision of the small model writes one token, or the helper's whole reply. Its piece is handed out once all of its
text may be shown, so pieces may lag behind the text by what is held back for a stop string; at the end they are equal.
"""

from collections import deque
from dataclasses import dataclass, replace

from components.cascade.decoding import Author, CascadeToken, Outcome


@dataclass(frozen=True)
class Piece:
    """The text of one decision."""

    text: str
    """Empty for a token that completes no character, and for the token that ends an answer."""
    tokens: int
    """Tokens that it has, in the small model's tokenizer."""
    author: Author
    """Who wrote it."""
    call_probability: float
    """P(CALL) at this decision."""
    call: Outcome
    """Whether the model asked here, and what came of it: ``none``, ``answered``, ``empty`` or ``failed``."""
    seconds: float
    """Time of this decision, including the helper's answer."""
    helper_seconds: float
    """Of these, the time that it waited for the helper."""


class PieceQueue:
    """Pieces between the decision that wrote them and the moment when they are shown."""

    def __init__(self) -> None:
        self._held: deque[Piece] = deque()
        self._characters = 0  # shown, and not yet handed out in a piece

    def push(self, token: CascadeToken, characters: str) -> None:
        """``token`` has completed ``characters``. The further tokens of a reply belong to the decision before."""
        if token.author == "helper" and token.logprob is None:
            first = self._held.pop()
            self._held.append(replace(first, text=first.text + characters, tokens=first.tokens + 1))
            return
        self._held.append(
            Piece(
                text=characters,
                tokens=1,
                author=token.author,
                call_probability=token.call_probability,
                call=token.call,
                seconds=token.seconds,
                helper_seconds=token.helper_seconds,
            )
        )

    def shown(self, characters: int, ended: bool) -> tuple[Piece, ...]:
        """Pieces that are complete now that ``characters`` more are shown; at the end also one that a stop string
        cuts."""
        if not characters and not ended:
            return ()  # nothing is sent now, so a piece without text must wait as well
        self._characters += characters
        pieces = []
        while self._held and len(self._held[0].text) <= self._characters:
            pieces.append(self._held.popleft())
            self._characters -= len(pieces[-1].text)
        if ended and self._characters:
            pieces.append(replace(self._held[0], text=self._held[0].text[: self._characters]))
        return tuple(pieces)
