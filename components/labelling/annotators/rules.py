"""The rule sets of LaCy (arXiv:2602.12005) on a parse, as array operations: which spaCy tokens state facts.

    ner_only       entities
    pos_only       proper nouns and numbers
    ner+pos        both (the default)
    ner+pos+attr   both, and nouns and adjectives that say what someone is or does ("an American *painter*")

Function words and punctuation never count, except function words within the title of a work.
"""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Int, UInt64

from components.labelling.annotators import schemes

ParseRules = Literal["ner_only", "pos_only", "ner+pos", "ner+pos+attr"]
PARSE_RULES: tuple[ParseRules, ...] = get_args(ParseRules)

# What of a document the rules read, in this order (names of spacy.attrs).
COLUMNS = ("IDX", "LENGTH", "ENT_TYPE", "POS", "TAG", "DEP", "HEAD", "LOWER", "IS_PUNCT", "IS_SPACE")
# From an attribute upwards to its verb: past its preposition, the noun it belongs to, and that noun's preposition.
_STEPS_TO_VERB = 4

Parse = UInt64[np.ndarray, "tokens columns"]
Mask = Bool[np.ndarray, " tokens"]


class Symbols(NamedTuple):
    """The ids by which one pipeline's vocabulary knows the terms of the rules."""

    entities: np.ndarray[Any, Any]
    work: int
    names_and_numbers: np.ndarray[Any, Any]
    names_and_numbers_tags: np.ndarray[Any, Any]
    function_words: np.ndarray[Any, Any]
    nominal: np.ndarray[Any, Any]
    verbal: np.ndarray[Any, Any]
    attributes: np.ndarray[Any, Any]
    prepositional: np.ndarray[Any, Any]
    preposition: int
    copula: int
    verb_forms: np.ndarray[Any, Any]

    @classmethod
    def of(cls, strings: Any, scheme: schemes.Scheme | None) -> "Symbols":
        """Look the terms up in a spaCy ``StringStore``; nothing is added to it."""

        def ids(names: Any) -> np.ndarray[Any, Any]:
            return np.array([strings[name] for name in sorted(names)], dtype=np.uint64)

        return cls(
            entities=ids(schemes.ENTITIES),
            work=strings[schemes.WORK],
            names_and_numbers=ids(schemes.NAME_OR_NUMBER),
            names_and_numbers_tags=ids(schemes.NAME_OR_NUMBER_TAGS),
            function_words=ids(schemes.FUNCTION_WORDS),
            nominal=ids(schemes.NOMINAL),
            verbal=ids(schemes.VERBAL),
            attributes=ids(schemes.ATTRIBUTES[scheme] if scheme else ()),
            prepositional=ids(schemes.UD_PREPOSITIONAL if scheme == "ud" else ()),
            preposition=strings[schemes.UD_PREPOSITION] if scheme == "ud" else 0,
            copula=strings[schemes.UD_COPULA] if scheme == "ud" else 0,
            verb_forms=ids(schemes.VERB_FORMS),
        )


def factual_tokens(parse: Parse, rules: ParseRules, symbols: Symbols) -> Mask:
    """Which tokens of ``parse`` (columns as in ``COLUMNS``) state facts under ``rules``."""
    column = dict(zip(COLUMNS, parse.T, strict=True))
    found = np.zeros(len(parse), dtype=bool)
    if rules != "pos_only":
        found |= np.isin(column["ENT_TYPE"], symbols.entities)
    if rules != "ner_only":
        found |= np.isin(column["POS"], symbols.names_and_numbers)
        found |= np.isin(column["TAG"], symbols.names_and_numbers_tags)
    if rules == "ner+pos+attr":
        found |= _attributes(column, symbols)
    function_word = np.isin(column["POS"], symbols.function_words) & (column["ENT_TYPE"] != symbols.work)
    result: Mask = found & ~function_word & (column["IS_PUNCT"] == 0) & (column["IS_SPACE"] == 0)
    return result


def _attributes(column: dict[str, np.ndarray[Any, Any]], symbols: Symbols) -> Mask:
    """Nouns and adjectives in the place of an attribute or object of a telling verb."""
    tokens = len(column["HEAD"])
    head = np.arange(tokens) + column["HEAD"].view(np.int64)
    known_form = np.isin(column["LOWER"], symbols.verb_forms)

    # In UD, "a painter" in "was a painter" is itself the head of the copula and of the preposition.
    copulas = (column["DEP"] == symbols.copula) & known_form & (symbols.copula != 0)
    predicate = _has_child(copulas, head)
    with_preposition = _has_child((column["DEP"] == symbols.preposition) & (symbols.preposition != 0), head)

    place = np.isin(column["DEP"], symbols.attributes) | predicate
    place |= np.isin(column["DEP"], symbols.prepositional) & with_preposition

    verb = np.isin(column["POS"], symbols.verbal)
    telling, settled = predicate.copy(), predicate.copy()
    above: Int[np.ndarray, " tokens"] = head
    for _ in range(_STEPS_TO_VERB):
        telling |= ~settled & ((verb & known_form) | predicate)[above]
        settled |= (verb | predicate)[above]
        above = head[above]
    result: Mask = np.isin(column["POS"], symbols.nominal) & place & telling
    return result


def _has_child(children: Mask, head: Int[np.ndarray, " tokens"]) -> Mask:
    found = np.zeros(len(head), dtype=bool)
    found[head[children]] = True
    return found
