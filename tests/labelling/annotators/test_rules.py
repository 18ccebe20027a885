"""Rule sets over parses written by hand in both label schemes."""

from typing import Any

import pytest

from components.labelling.annotators.rules import COLUMNS, ParseRules, Symbols, factual_tokens
from components.labelling.annotators.schemes import Scheme, scheme_of

spacy = pytest.importorskip("spacy")

# word, part of speech, Penn tag, dependency, head, entity
Row = tuple[str, str, str, str, int, str]
CLEAR: list[Row] = [
    ("Ada", "PROPN", "NNP", "compound", 1, "B-PERSON"),
    ("Lovelace", "PROPN", "NNP", "nsubj", 2, "I-PERSON"),
    ("was", "AUX", "VBD", "ROOT", 2, "O"),
    ("a", "DET", "DT", "det", 5, "O"),
    ("gifted", "ADJ", "JJ", "amod", 5, "O"),
    ("painter", "NOUN", "NN", "attr", 2, "O"),
    ("who", "PRON", "WP", "nsubj", 7, "O"),
    ("served", "VERB", "VBD", "relcl", 5, "O"),
    ("as", "ADP", "IN", "prep", 7, "O"),
    ("mayor", "NOUN", "NN", "pobj", 8, "O"),
    ("for", "ADP", "IN", "prep", 7, "O"),
    ("twelve", "NUM", "CD", "nummod", 12, "B-DATE"),
    ("years", "NOUN", "NNS", "pobj", 10, "I-DATE"),
    (",", "PUNCT", ",", "punct", 2, "O"),
    ("saw", "VERB", "VBD", "conj", 2, "O"),
    ("ships", "NOUN", "NNS", "dobj", 14, "O"),
    ("and", "CCONJ", "CC", "cc", 14, "O"),
    ("wrote", "VERB", "VBD", "conj", 14, "O"),
    ("poems", "NOUN", "NNS", "dobj", 17, "O"),
    (".", "PUNCT", ".", "punct", 2, "O"),
]
UD: list[Row] = [
    ("Ada", "PROPN", "NNP", "nsubj", 5, "B-PER"),
    ("Lovelace", "PROPN", "NNP", "flat", 0, "I-PER"),
    ("was", "AUX", "VBD", "cop", 5, "O"),
    ("a", "DET", "DT", "det", 5, "O"),
    ("gifted", "ADJ", "JJ", "amod", 5, "O"),
    ("painter", "NOUN", "NN", "ROOT", 5, "O"),
    ("who", "PRON", "WP", "nsubj", 7, "O"),
    ("served", "VERB", "VBD", "acl:relcl", 5, "O"),
    ("as", "ADP", "IN", "case", 9, "O"),
    ("mayor", "NOUN", "NN", "obl", 7, "O"),
    ("for", "ADP", "IN", "case", 12, "O"),
    ("twelve", "NUM", "CD", "nummod", 12, "B-DATE"),
    ("years", "NOUN", "NNS", "obl", 7, "I-DATE"),
    (",", "PUNCT", ",", "punct", 5, "O"),
    ("saw", "VERB", "VBD", "conj", 5, "O"),
    ("ships", "NOUN", "NNS", "obj", 14, "O"),
    ("and", "CCONJ", "CC", "cc", 17, "O"),
    ("wrote", "VERB", "VBD", "conj", 14, "O"),
    ("poems", "NOUN", "NNS", "obj", 17, "O"),
    (".", "PUNCT", ".", "punct", 5, "O"),
]
SCHEMES: dict[Scheme, list[Row]] = {"clear": CLEAR, "ud": UD}


def factual(rows: list[Row], rules: ParseRules, scheme: Scheme) -> str:
    vocab = spacy.blank("en").vocab
    words, pos, tags, deps, heads, ents = zip(*rows, strict=True)
    document: Any = spacy.tokens.Doc(
        vocab, words=list(words), pos=list(pos), tags=list(tags), deps=list(deps), heads=list(heads), ents=list(ents)
    )
    parse = document.to_array([getattr(spacy.attrs, column) for column in COLUMNS])
    found = factual_tokens(parse, rules, Symbols.of(vocab.strings, scheme))
    return " ".join(word for word, mark in zip(words, found, strict=True) if mark)


@pytest.mark.parametrize("scheme", ["clear", "ud"])
@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("ner_only", "Ada Lovelace twelve years"),
        ("pos_only", "Ada Lovelace twelve"),
        ("ner+pos", "Ada Lovelace twelve years"),
        ("ner+pos+attr", "Ada Lovelace painter mayor twelve years poems"),
    ],
)
def test_both_schemes_give_the_same_facts(rules: ParseRules, expected: str, scheme: Scheme) -> None:
    assert factual(SCHEMES[scheme], rules, scheme) == expected


def test_function_words_and_punctuation_count_only_in_titles_of_works() -> None:
    def film(entity: str) -> list[Row]:
        return [
            ("The", "DET", "DT", "det", 1, f"B-{entity}"),
            ("Lady", "PROPN", "NNP", "ROOT", 1, f"I-{entity}"),
            ("of", "ADP", "IN", "prep", 1, f"I-{entity}"),
            (",", "PUNCT", ",", "punct", 1, f"I-{entity}"),
            ("Ships", "PROPN", "NNPS", "pobj", 2, f"I-{entity}"),
        ]

    assert factual(film("WORK_OF_ART"), "ner_only", "clear") == "The Lady of Ships"
    assert factual(film("MISC"), "ner_only", "clear") == "Lady Ships"
    assert factual(film("FLAVOUR"), "ner_only", "clear") == "", "an unknown entity type is no fact"


def test_adjectives_in_names_are_known_by_their_penn_tag() -> None:
    league: list[Row] = [("National", "ADJ", "NNP", "amod", 1, "O"), ("League", "PROPN", "NNP", "ROOT", 1, "O")]
    assert factual(league, "pos_only", "ud") == "National League"


def test_schemes_are_told_by_what_objects_are_called() -> None:
    assert scheme_of({"nsubj", "dobj", "nmod", "case"}) == "clear"
    assert scheme_of({"nsubj", "obj", "nmod", "case"}) == "ud"
    assert scheme_of({"sb", "oa", "pd"}) is None
