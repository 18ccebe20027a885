"""Reads a value out of an article: what fills the slot that a sentence opens, such as the year after "was born in"?

Text that is written word for word as in an article is continued by looking the place up (see the retrieval helper). A
model writes its own sentences. Then it takes the event that the sentence tells of, the kind of value that its last word
asks for, and the value of that kind which the article gives for the event. Where one of the three is missing, nothing
is said: a wrong answer is worse than none.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

Kind = Literal["year", "date", "name"]

MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_YEAR = re.compile(r"\b(?:1\d{3}|20\d{2}|[3-9]\d{2})\b")
_DATE = re.compile(rf"\b(?:{MONTH} \d{{1,2}}, \d{{3,4}}|\d{{1,2}} {MONTH} \d{{3,4}})\b")
_NAME = re.compile(
    r"(?:the )?[^\W\d_a-z][\w'’.-]*(?:(?: (?:of|the|de|del|di|da|do|du|la|le|van|von|der|and|for|upon|on))*"
    r" [^\W\d_a-z][\w'’-]*)*"
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^\W\d_a-z])|\n")

# What stands before a name in an article: "born on 3 May 1902 in Hjelmby", "educated at Vesper Academy".
_CAPITAL = r"(?=[^\W\d_a-z])"
_PLACE = re.compile(rf"\b(?:in|at|near)(?: the)? {_CAPITAL}")
_SCHOOL = re.compile(rf"(?:^ ?|\b(?:at|from)(?: the)? ){_CAPITAL}")


class _Event(NamedTuple):
    """How texts tell of an event."""

    told: re.Pattern[str]
    """In the text that is to be continued."""
    reported: re.Pattern[str]
    """In an article."""
    searched: tuple[str, ...]
    """By which a passage that tells of it is found."""
    before_names: re.Pattern[str]


_STUDIES = re.compile(r"\b(?:educated|studied|graduated|attended|degree)\b", re.I)
_EVENTS = {
    "birth": _Event(
        re.compile(r"\b(?:born|birth)\b", re.I),
        re.compile(r"\bborn\b|\bbirth(?:place)?\b|\bnative of\b", re.I),
        ("born", "birth"),
        _PLACE,
    ),
    "death": _Event(
        re.compile(r"\b(?:died|dies|death|passed away)\b", re.I),
        re.compile(r"\b(?:died|death|passed away)\b", re.I),
        ("died", "death"),
        _PLACE,
    ),
    "education": _Event(_STUDIES, _STUDIES, ("educated", "studied", "graduated", "attended"), _SCHOOL),
    "burial": _Event(
        re.compile(r"\bburied\b", re.I), re.compile(r"\b(?:buried|interred)\b", re.I), ("buried",), _PLACE
    ),
}
# What the last words ask for, tried in order; "in" may open a year or a place.
_OPENINGS: tuple[tuple[re.Pattern[str], tuple[Kind, ...]], ...] = (
    (re.compile(r"\b(?:in|of|since) the year(?: of)?$", re.I), ("year",)),
    (re.compile(r"\b(?:born|died)$|\bon(?: the)?$", re.I), ("date",)),
    (re.compile(r"\b(?:in|near|around)$", re.I), ("name", "year")),
    (re.compile(r"\b(?:at|from|to|the)$|\battended$", re.I), ("name",)),
)
# Of the words before the end, among which the event is named.
_REACH_CHARACTERS = 60
_LEAD_CHARACTERS = 400


class Slot(NamedTuple):
    """What a sentence asks for."""

    event: str
    kinds: tuple[Kind, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """By which a passage that tells of the event is found."""
        return _EVENTS[self.event].searched


def slot_of(text: str) -> Slot | None:
    """The slot that the end of ``text`` opens; ``None`` where it opens none that is known."""
    sentence = _SENTENCE.split(text.rstrip())[-1][-_REACH_CHARACTERS:]
    kinds = next((kinds for opening, kinds in _OPENINGS if opening.search(sentence)), None)
    named = [
        (found[-1].end(), event) for event, each in _EVENTS.items() if (found := list(each.told.finditer(sentence)))
    ]
    if kinds is None or not named:
        return None
    return Slot(max(named)[1], kinds)


def value_for(slot: Slot, passages: Iterable[str]) -> str:
    """The value for ``slot`` that ``passages`` of one subject give first; empty if they do not tell."""
    texts = list(passages)
    for kind in slot.kinds:
        for text in texts:
            if value := next(_values(slot.event, kind, text), ""):
                return value
    return ""


def _values(event: str, kind: Kind, text: str) -> Iterator[str]:
    if kind != "name" and (date := _life_date(event, text[:_LEAD_CHARACTERS])):
        yield from _matches(kind, date)
    for sentence in _SENTENCE.split(text):
        for place in _EVENTS[event].reported.finditer(sentence):
            yield from _behind(event, kind, sentence[place.end() :])


def _behind(event: str, kind: Kind, rest: str) -> Iterator[str]:
    """The nearest value of ``kind`` behind the event, in the same clause."""
    clause = re.split(r";|\bbut\b|\bwho\b|\bwhere\b|\bwhen\b", rest)[0]
    if kind != "name":
        yield from _matches(kind, clause)
        return
    for before in _EVENTS[event].before_names.finditer(clause):
        name = _NAME.match(clause, before.end())
        if name and not re.fullmatch(MONTH, name[0].split(" ")[0]):
            yield name[0].rstrip(".")


def _matches(kind: Kind, text: str) -> Iterator[str]:
    pattern = _DATE if kind == "date" else _YEAR
    for match in pattern.finditer(text):
        yield match[0]


def _life_date(event: str, lead: str) -> str:
    """The dates of birth and death in the brackets behind a name: "(April 25, 1940 – 3 May 2001)", "(born 1940)"."""
    if event not in ("birth", "death"):
        return ""
    for bracket in re.finditer(r"\(([^()]*\d{3,4}[^()]*)\)", lead):
        birth, dash, death = re.sub(r"\s-\s", " – ", bracket[1]).partition("–")
        if event == "death":
            return death if dash else ""
        if _YEAR.search(birth):
            return birth
    return ""
