"""How much a call returns: where the first word, or the first entity, of a text ends."""

import unicodedata

from components.cascade.config import ReturnUnit
from components.data.tokenizer import TextTokenizer

_JOINERS = "-'’"  # inside a word, between letters or digits: Rolls-Royce, O'Neill
_NUMBER_JOINERS = ".,"  # inside a number: 1,234.5
# Between the capitalised words of one name: University of Oxford, Vasco da Gama.
_PARTICLES = frozenset(
    {"of", "the", "de", "del", "della", "da", "di", "do", "dos", "du", "la", "le", "les", "van", "von", "der", "den"}
)


def first_unit(text: str, unit: ReturnUnit) -> tuple[str, bool]:
    """The first unit of ``text`` with the space before it, and whether what follows shows that it has ended.

    A word is a run of letters, digits and marks, or one of punctuation. An entity is a word, or as many capitalised
    words and numbers as follow each other, with the particles between them. For ``token`` it is all of the text.
    """
    if unit == "token":
        return text, bool(text)
    end, ended = _word(text, 0)
    if unit == "word" or not ended or not _names(text[:end].strip()):
        return text[:end], ended
    at = end
    while True:
        if text[at : at + 1] != " ":
            return text[:end], at < len(text)
        start = at
        at, ended = _word(text, at)
        word = text[start:at].strip()
        if _names(word):
            end = at
            if not ended:
                return text[:end], False
        elif not (word in _PARTICLES if ended else any(particle.startswith(word) for particle in _PARTICLES)):
            return text[:end], True
        elif not ended:
            return text[:end], False


def first_tokens(text: str, count: int, tokenizer: TextTokenizer) -> str:
    """The text of the first ``count`` tokens of ``text``, and of those that complete its last character."""
    ids = tokenizer.encode(text)
    while count < len(ids):
        try:
            return b"".join(map(tokenizer.token_bytes, ids[:count])).decode()
        except UnicodeDecodeError:  # ends inside a character: one token more
            count += 1
    return text


def _word(text: str, at: int) -> tuple[int, bool]:
    """End of the word that begins at ``at`` or after the space there, and whether something else follows it."""
    while at < len(text) and text[at].isspace():
        at += 1
    if at == len(text):
        return at, False
    if not _in_word(text[at]):
        while at < len(text) and not _in_word(text[at]) and not text[at].isspace():
            at += 1
        return at, at < len(text)
    while at < len(text):
        if _in_word(text[at]):
            at += 1
        elif text[at] in _JOINERS or (text[at] in _NUMBER_JOINERS and text[at - 1].isdigit()):
            if at + 1 == len(text):
                return at, False  # the next character decides whether it joins
            wanted = str.isdigit if text[at] in _NUMBER_JOINERS else _in_word
            if not wanted(text[at + 1]):
                return at, True
            at += 1
        else:
            return at, True
    return at, False


def _in_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM" or character == "_"


def _names(word: str) -> bool:
    """Whether a word may be part of a name or a date."""
    return bool(word) and (word[0].isupper() or word[0].isdigit())
