"""Long documents in pieces that a parser can hold, cut where the least is lost: at a paragraph, a sentence, a space."""

from collections.abc import Iterator

LONGEST_CHARACTERS = 100_000
# In order of preference; a border in the second half of a piece is good enough.
_BORDERS = ("\n\n", "\n", ". ", "! ", "? ", " ")


def chunks(text: str, longest: int = LONGEST_CHARACTERS) -> Iterator[tuple[int, str]]:
    """Pieces of ``text`` of at most ``longest`` characters with their offsets; joined, they are the text."""
    start = 0
    while len(text) - start > longest:
        stop = _border(text, start, start + longest)
        yield start, text[start:stop]
        start = stop
    if start < len(text):
        yield start, text[start:]


def _border(text: str, start: int, stop: int) -> int:
    middle = start + (stop - start) // 2
    for border in _BORDERS:
        if (place := text.rfind(border, middle, stop)) >= 0:
            return place + len(border)
    return stop
