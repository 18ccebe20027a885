"""Biographies that the model writes, checked fact by fact against the fact table of the closed world.

Every subject is given by its name, and the rest is written greedily. Precision is the share of the stated facts that
are true, recall the share of the subject's facts that are stated and true. The judge is exact: it parses the
text with the grammar of the generator, with the values left open. Text that it cannot parse states nothing, and is
counted.
"""

import codecs
from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from components.cascade.decoding import Cascade, CascadeAnswer, CascadeRequest
from components.data.tokenizer import TextTokenizer
from components.data.world.comprehension import World
from components.data.world.facts import facts_of
from components.evaluation.bootstrap import ratio_interval
from components.evaluation.config import BootstrapConfig
from components.evaluation.factuality.results import Written
from components.evaluation.factuality.stated import NAMES, stated_facts
from components.evaluation.heldout import first_shuffled
from components.model.generate import text_sampling


class Biography(BaseModel):
    """One text and its claims; a line of ``biographies.jsonl``."""

    model_config = ConfigDict(frozen=True)

    subject: str
    text: str
    """The whole document, the given name included."""
    authors: list[tuple[int, int, str]]
    """Characters from, to, and who wrote them: ``given``, ``small`` or ``helper``."""
    claims: list[tuple[int, int, str, str, bool]]
    """Characters from, to, fact, value stated, whether it is true."""
    facts: int
    """Facts of the subject in the table, names left out."""
    stated_true: int
    """Different facts of the subject that the text states, and rightly."""
    sentences: int
    understood: int
    decisions: int
    calls: int
    failed_calls: int
    small_tokens: int
    helper_tokens: int


def subjects(world: World, count: int) -> list[str]:
    """Names of ``count`` entities by a fixed shuffle, popular and unknown ones alike."""
    names = list(world.table.by_name)
    return [names[i] for i in first_shuffled(len(names), count)]


def write_biographies(
    cascade: Cascade,
    world: World,
    tokenizer: TextTokenizer,
    names: Sequence[str],
    budget: float,
    max_tokens: int,
    report: Callable[[float], None] = lambda fraction: None,
) -> list[Biography]:
    """One document about each of ``names``, greedily, with calls up to ``budget``."""
    sampling = text_sampling(tokenizer.special, max_tokens)
    requests = [
        CascadeRequest([tokenizer.end_of_text_id, *tokenizer.encode(name)], sampling, budget=budget) for name in names
    ]
    answers = cascade.answers(requests)
    report(1.0)
    return [judged(world, tokenizer, name, answer) for name, answer in zip(names, answers, strict=True)]


def judged(world: World, tokenizer: TextTokenizer, name: str, answer: CascadeAnswer) -> Biography:
    """Parse an answer, and look up its claims."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, authors = name, [(0, len(name), "given")]
    for token in answer.tokens:
        # A character belongs to the token that completes it.
        piece = decoder.decode(tokenizer.token_bytes(token.id))
        if piece:
            authors.append((len(text), len(text) + len(piece), str(token.author)))
            text += piece
    if rest := decoder.decode(b"", final=True):  # the length limit cut a character
        authors.append((len(text), len(text) + len(rest), str(answer.tokens[-1].author)))
        text += rest
    reading, claims = stated_facts(world, text, finished=answer.finish == "stop", subject=name)
    subject = world.table.by_name[name]
    own = {fact.id for fact in facts_of(subject) if fact.relation not in NAMES}
    return Biography(
        subject=name,
        text=text,
        authors=authors,
        claims=[tuple(claim) for claim in claims],
        facts=len(own),
        stated_true=len({claim.fact_id for claim in claims if claim.true} & own),
        sentences=reading.sentences,
        understood=reading.understood,
        decisions=answer.summary.decisions,
        calls=answer.summary.calls,
        failed_calls=answer.summary.failed_calls,
        small_tokens=answer.summary.small_tokens,
        helper_tokens=answer.summary.helper_tokens,
    )


def fact_scores(biographies: Sequence[Biography], cfg: BootstrapConfig) -> Written:
    """Scores with intervals over the subjects; at least one biography is needed."""
    true = np.array([sum(claim[4] for claim in each.claims) for each in biographies], dtype=np.float64)
    stated = np.array([len(each.claims) for each in biographies], dtype=np.float64)
    known = np.array([each.stated_true for each in biographies], dtype=np.float64)
    facts = np.array([each.facts for each in biographies], dtype=np.float64)
    speaks = stated > 0  # a text without claims is neither right nor wrong
    written = sum(each.small_tokens + each.helper_tokens for each in biographies)
    return Written(
        precision=ratio_interval(true[speaks], stated[speaks], cfg) if speaks.any() else None,
        recall=ratio_interval(known, facts, cfg),
        claims=float(stated.mean()),
        understood=sum(each.understood for each in biographies) / max(1, sum(each.sentences for each in biographies)),
        calls=sum(each.calls for each in biographies) / max(1, sum(each.decisions for each in biographies)),
        helper_tokens=sum(each.helper_tokens for each in biographies) / max(1, written),
        failed_calls=sum(each.failed_calls for each in biographies),
    )
