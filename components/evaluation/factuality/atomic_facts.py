"""From a text to short statements that each say one thing, to be judged one by one.

In FActScore (arXiv:2305.14251) an LLM does this, sentence by sentence. Without an LLM, a parser splits sentences into
clauses. This is coarser: "in London in 1815" stays one statement, and is supported only as a whole. Without a parser, a
statement is a sentence. Scores by different splitters cannot be compared, so ``Splitter.name`` is reported.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from components.core.errors import InputError
from components.evaluation.factuality.chat import Chat, ChatError
from components.labelling.annotators.pipeline import Pipeline

# Where a sentence ends: at a stop before a space and a capital, but not after an initial or a title.
_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[^\W\d_a-z]|\d)|\n+")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘.])(?:[^\W\d_]|Dr|Mr|Mrs|Ms|St|Sr|Jr|Prof|Gen|Col|Capt|Lt|Rev|Hon|Mt|No|vs|ca?|Co|Inc|Ltd|Bros|[Ff]l|[Bb]r?n)\.$"
)

_CLOSING = ('"', "”", "’", ")", "'")

_ANSWER_TOKENS = 400
_LIST_MARK = re.compile(r"^\s*(?:[-*•–]|\d+[.)])\s+(.*\S)\s*$")
_NOTHING = re.compile(r"^\W*(?:none|no facts?)\W*$", re.IGNORECASE)
_INSTRUCTION = (
    "Break each sentence down into independent facts. A fact is one short sentence that can be understood, and be true "
    'or false, by itself. Use nothing but what the sentence says. Begin each fact with "- ".'
)
# Written for this purpose; the persons do not exist.
_EXAMPLES = (
    (
        "Marta Veldring (born 3 May 1921) was a Norwegian chemist and amateur violinist.",
        (
            "Marta Veldring was born on 3 May 1921.",
            "Marta Veldring was Norwegian.",
            "Marta Veldring was a chemist.",
            "Marta Veldring was an amateur violinist.",
        ),
    ),
    (
        "In 1954 she left Oslo for Lyon, where she directed the dye works until her retirement.",
        (
            "She left Oslo in 1954.",
            "She moved to Lyon in 1954.",
            "She directed the dye works in Lyon.",
            "She directed the dye works until her retirement.",
        ),
    ),
    (
        "He is best known for the novel \"The Salt Road\", which was translated into nine languages.",
        (
            "He is best known for a novel.",
            "The novel he is best known for is \"The Salt Road\".",
            "\"The Salt Road\" was translated into nine languages.",
        ),
    ),
    (
        "After two seasons with Harwick Town, the goalkeeper signed for Dunmore United for a fee of £40,000.",
        (
            "He is a goalkeeper.",
            "He played for Harwick Town.",
            "He was with Harwick Town for two seasons.",
            "He signed for Dunmore United.",
            "Dunmore United paid a fee of £40,000 for him.",
        ),
    ),
)  # fmt: skip

# Labels of Universal Dependencies and of CLEAR.
_SUBJECTS = ("nsubj", "nsubjpass", "nsubj:pass")
_AUXILIARIES = ("cop", "aux", "auxpass", "aux:pass")
_RELATIVES = ("acl:relcl", "relcl")
_NAMES = ("flat", "flat:name", "compound", "amod", "det", "nummod", "nmod:poss", "poss")
# Biographies begin "Name (born ...) was ...": dates, which parsers attach to anything.
_DATES = re.compile(r"^([^().]{1,80}?) \(([^()]+)\),? (?=\S)")


class Splitter(Protocol):
    """Splits texts into facts."""

    @property
    def name(self) -> str:
        """For the report: what one fact is."""

    def facts(self, sentences: Sequence[str]) -> list[list[str] | ChatError]:
        """The facts of each sentence, none for a sentence that states nothing; an error where the splitter failed."""


def sentences(text: str) -> list[str]:
    """The sentences of ``text`` by punctuation; initials and common abbreviations end none."""
    found, start = [], 0
    for match in _END.finditer(text):
        if "\n" not in match[0] and _ABBREVIATION.search(text[start : match.start()].rstrip()):
            continue
        found.append(text[start : match.start()] + match[0].rstrip())
        start = match.end()
    return [sentence.strip() for sentence in [*found, text[start:]] if re.search(r"\w", sentence)]


class Sentences:
    """One sentence is one fact."""

    name = "sentences (no parser was named: facts.factscore.pipeline)"

    def facts(self, sentences: Sequence[str]) -> list[list[str] | ChatError]:
        return [[sentence] for sentence in sentences]


class Clauses:
    """One clause is one fact: coordinated predicates and relative clauses, each with its subject, and dates of life."""

    def __init__(self, pipeline: str) -> None:
        """Raises ``InputError`` if there is no such pipeline or it does not parse."""
        try:
            opened = Pipeline(pipeline, ["ner+pos+attr"]).check("ner+pos+attr")
        except InputError as error:
            raise InputError(f"facts.factscore.pipeline={pipeline} parses no sentences: {error}") from error
        self._nlp = opened.nlp
        self.name = f"clauses as parsed by {opened.record.name}"

    def facts(self, sentences: Sequence[str]) -> list[list[str] | ChatError]:
        found: list[list[str] | ChatError] = []
        for sentence in sentences:
            facts = []
            if dates := _DATES.match(sentence):
                facts.append(f"{dates[1]} ({dates[2]}).")
                sentence = f"{dates[1]} {sentence[dates.end() :]}"
            found.append([*facts, *_clauses(self._nlp(sentence))])
        return found


class Llm:
    """An LLM lists the facts, shown four examples of ours."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self.name = f"facts listed by {chat.name}"

    def facts(self, sentences: Sequence[str]) -> list[list[str] | ChatError]:
        return [
            answer if isinstance(answer, ChatError) else _listed(answer)
            for answer in self._chat.ask_all([_prompt(sentence) for sentence in sentences], _ANSWER_TOKENS)
        ]


def _prompt(sentence: str) -> str:
    shown = [(text, "\n".join(f"- {fact}" for fact in facts)) for text, facts in _EXAMPLES]
    return "\n\n".join(
        [_INSTRUCTION, *(f"Sentence: {text}\nFacts:\n{facts}" for text, facts in [*shown, (sentence, "")])]
    )


def _listed(answer: str) -> list[str] | ChatError:
    facts = [match[1] for line in answer.splitlines() if (match := _LIST_MARK.match(line))]
    if not facts and not _NOTHING.match(answer):
        return ChatError(f"the judge was asked for a list of facts and said {answer[:80]!r}")
    return [fact for fact in facts if not _NOTHING.match(fact)]


def _clauses(parsed: Any) -> Iterator[str]:
    """The clauses of a parsed sentence in their order, as sentences of their own."""
    clauses = [token for token in parsed if _is_clause(token)]
    # Parsers see ends of sentences where there are none: only a root with a subject begins a sentence.
    roots = [token for token in parsed if token.head == token and _child(token, _SUBJECTS) is not None]
    roots = roots or [token for token in parsed if token.head == token][:1]
    members: dict[int, list[Any]] = {token.i: [] for token in sorted([*roots, *clauses], key=lambda token: token.i)}
    for token in parsed:
        above = token
        while above.i not in members and above.head != above:
            above = above.head
        if above.i not in members:
            above = next((root for root in reversed(roots) if root.i < above.i), roots[0])
        members[above.i].append(token)
    for place, words in members.items():
        head = parsed[place]
        if head.dep_ in _RELATIVES:
            words = [token for token in words if token.head != head or token.dep_ not in _SUBJECTS]
        while words and (words[0].is_punct or words[0].is_space or words[0].dep_ == "cc"):
            words = words[1:]
        while words and (words[-1].is_punct or words[-1].is_space) and words[-1].text not in _CLOSING:
            words = words[:-1]
        body = " ".join("".join(token.text_with_ws for token in words).split())
        if any(character.isalnum() for character in body):
            yield f"{_subject(head)} {body}".strip() + "."


def _is_clause(token: Any) -> bool:
    """Whether ``token`` is a further predicate of a sentence: coordinated with another, or what "who" did.

    Appositions and participles stay with the words they explain: parsers err too often about which those are.
    """
    if token.dep_ in _RELATIVES:
        return any(child.dep_ in _SUBJECTS and child.lower_ in ("who", "which", "that") for child in token.children)
    return token.dep_ == "conj" and _says(token) and _says(token.head)


def _says(token: Any) -> bool:
    """Whether ``token`` is a predicate: a verb, what stands after "is", or what is coordinated with that."""
    if token.pos_ in ("VERB", "AUX") or any(child.dep_ == "cop" for child in token.children):
        return True
    return token.dep_ == "conj" and token.head.pos_ not in ("VERB", "AUX") and _says(token.head)


def _subject(head: Any) -> str:
    """Words to put before the clause of ``head``: its subject, and "was" where it shares that; empty if it has both."""
    if head.dep_ in _RELATIVES:
        return _phrase(head.head)
    if head.dep_ != "conj" or _child(head, _SUBJECTS) is not None:
        return ""
    first = head
    while first.dep_ == "conj" and _child(first, _SUBJECTS) is None:
        first = first.head
    subject = _child(first, _SUBJECTS)
    if subject is None:
        return ""
    shared = _child(first, _AUXILIARIES)
    # "was born in Fulda and educated at Marburg", but "was born in Fulda and studied at Marburg".
    lacks = _child(head, _AUXILIARIES) is None and (head.pos_ != "VERB" or head.tag_ in ("VBN", "VB"))
    return f"{_phrase(subject)} {shared.text}" if shared is not None and lacks else _phrase(subject)


def _child(head: Any, labels: Sequence[str]) -> Any:
    return next((child for child in head.children if child.dep_ in labels), None)


def _phrase(noun: Any) -> str:
    """A noun with what makes up its name."""
    words = [token for token in noun.subtree if _belongs(token, noun)]
    return "".join(token.text_with_ws for token in words).strip()


def _belongs(token: Any, noun: Any) -> bool:
    while token != noun:
        if token.dep_ not in _NAMES and token.text != "-":
            return False
        token = token.head
    return True
