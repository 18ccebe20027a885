"""Label schemes of trained pipelines, mapped to the terms of the rules.

The well-known ``en_core_web_*`` carry CLEAR dependencies, OntoNotes entities and Penn tags; others carry Universal
Dependencies and the four types of CoNLL. The same sentence has other heads in the two: UD hangs the copula and the
preposition below the noun, CLEAR above.
"""

from collections.abc import Iterable
from typing import Literal

Scheme = Literal["clear", "ud"]

# OntoNotes, and how other schemes call the same. MISC (CoNLL: nationalities, works, products) has no single
# counterpart; all it may stand for is factual.
ENTITIES = frozenset(
    [
        *("PERSON", "NORP", "FAC", "ORG", "GPE", "LOC", "PRODUCT", "EVENT", "WORK_OF_ART", "LAW", "LANGUAGE"),
        *("DATE", "TIME", "PERCENT", "MONEY", "QUANTITY", "ORDINAL", "CARDINAL"),
        *("PER", "MISC"),
    ]
)
WORK = "WORK_OF_ART"

NAME_OR_NUMBER = ("PROPN", "NUM")
# Where names hold adjectives ("the National Hockey League"), UD tags the part of speech by form and Penn by function.
NAME_OR_NUMBER_TAGS = ("NNP", "NNPS", "CD")
FUNCTION_WORDS = ("DET", "ADP", "CCONJ", "SCONJ", "PART", "AUX", "PRON")
NOMINAL = ("NOUN", "ADJ")
VERBAL = ("VERB", "AUX")

ATTRIBUTES: dict[Scheme, frozenset[str]] = {
    "clear": frozenset({"attr", "appos", "oprd", "pobj", "dobj"}),
    # obj is dobj; obl and nmod with a preposition are pobj (one without is a measure or a time, npadvmod in CLEAR);
    # a nominal xcomp is what someone becomes or is called: attr or oprd. attr after "be" is the head of a copula.
    "ud": frozenset({"appos", "obj", "xcomp"}),
}
UD_PREPOSITIONAL = frozenset({"obl", "obl:agent", "obl:arg", "obl:tmod", "obl:lmod", "nmod", "nmod:desc"})
UD_PREPOSITION = "case"
UD_COPULA = "cop"

# The verbs of the attribute rule in all their forms: no lemmatizer is needed, and every pipeline sees the same.
_CONJUGATED = """
    be am is are was were been being 's 're 'm
    become becomes became becoming
    serve serves served serving
    work works worked working
    bear bears bore born borne bearing
    find finds found finding founds founded founding
    locate locates located locating
    publish publishes published publishing
    release releases released releasing
    award awards awarded awarding
    elect elects elected electing
    play plays played playing
    direct directs directed directing
    write writes wrote written writing
    compose composes composed composing
    marry marries married marrying
    die dies died dying
    study studies studied studying
    graduate graduates graduated graduating
"""
VERB_FORMS = frozenset(_CONJUGATED.split())
VERB_LANGUAGE = "en"


def scheme_of(labels: Iterable[str]) -> Scheme | None:
    """The scheme to which a parser's labels belong, told by what objects are called; ``None`` if by another name."""
    labels = set(labels)
    if labels & {"dobj", "pobj"}:
        return "clear"
    return "ud" if labels & {"obj", "obl"} else None
