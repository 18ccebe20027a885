"""FActScore: how much of what a model writes about real people their Wikipedia articles support.

Min et al. (2023), arXiv:2305.14251. A response is split into atomic facts, each is judged by retrieved passages of the
entity's article, and a response scores the share of its facts that are supported; FActScore is the mean over responses.
A response that abstains is left out and lowers the respond ratio. Short responses score easily, so the penalised score
multiplies a response's score by exp(1 - gamma / facts) if it has at most gamma facts.

Two things go beyond the paper. Facts that a judge could not decide are left out and reported, together with the score
if all of them were false and if all were true. And there is an interval over entities.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from components.cascade.decoding import Cascade, CascadeRequest
from components.core.atomic import write_text
from components.data.tokenizer import TextTokenizer
from components.evaluation.bootstrap import ratio_interval
from components.evaluation.config import BootstrapConfig, FactScoreConfig
from components.evaluation.factuality.articles import Article, Passages, read_articles, read_entities
from components.evaluation.factuality.atomic_facts import Clauses, Llm, Sentences, Splitter, sentences
from components.evaluation.factuality.chat import Chat, ChatError
from components.evaluation.factuality.judges import Judge, LlmJudge, LocalJudge, Statement
from components.evaluation.factuality.real_text import FactScore, FactScoreResults, FactVerdict, Response, Status
from components.evaluation.results import Interval
from components.model.generate import text_sampling

# How models say, in the beginning of an answer, that they will give none.
_ABSTAINS = re.compile(
    r"\bI(?:'m|’m| am) (?:sorry|afraid|not (?:aware|sure|familiar|able))\b|\bI apologi[sz]e\b"
    r"|\bI (?:do not|don['’]t|cannot|can['’]t|could not|couldn['’]t|am unable to) (?:have|find|provide|know|recall)\b"
    r"|\b(?:there is|there's|I have) (?:no|not enough|insufficient|limited) (?:\w+ ){0,2}information\b"
    r"|\bprovide (?:me with )?more (?:context|details|information)\b",
    re.IGNORECASE,
)
_BEGINNING_CHARACTERS = 300


def run_factscore(
    cascade: Cascade,
    tokenizer: TextTokenizer,
    factscore_cfg: FactScoreConfig,
    cfg: BootstrapConfig,
    responses_file: Path | None = None,
    report: Callable[[float], None] = lambda fraction: None,
) -> FactScoreResults:
    """Let the model write about every entity, alone and as a cascade, and score both.

    Every judged text becomes a line of ``responses_file``. Raises ``InputError`` for files that do not fit,
    ``ChatError`` if the endpoint of the judge does not answer at the start.
    """
    articles_of = read_entities(Path(factscore_cfg.entities), factscore_cfg.max_entities)
    articles = read_articles([Path(name) for name in factscore_cfg.knowledge], list(articles_of.values()))
    knowledge = {entity: articles[id] for entity, id in articles_of.items()}
    splitter, judge, chat = open_judge(factscore_cfg)
    try:
        scores, lines = [], []
        for number, (written_by, budget) in enumerate((("small", 0.0), ("cascade", None))):
            texts = write(cascade, tokenizer, factscore_cfg, list(knowledge), budget)
            responses = judged(texts, knowledge, splitter, judge)
            report((number + 1) / 2)
            scores.append(score(responses, factscore_cfg.gamma, cfg))
            lines += [
                json.dumps({"written_by": written_by, **response.model_dump()}, ensure_ascii=False) + "\n"
                for response in responses
            ]
    finally:
        if chat is not None:
            chat.close()
    if responses_file is not None:
        write_text(responses_file, "".join(lines))
    return FactScoreResults(
        facts_by=splitter.name, judged_by=judge.name, gamma=factscore_cfg.gamma, alone=scores[0], cascade=scores[1]
    )


def open_judge(cfg: FactScoreConfig) -> tuple[Splitter, Judge, Chat | None]:
    """The splitter and the judge, checked, and a connection to close. Raises ``ChatError`` or ``InputError``."""
    if cfg.judge.kind == "local":
        return Clauses(cfg.pipeline) if cfg.pipeline else Sentences(), LocalJudge(cfg.passages), None
    chat = Chat(cfg.judge)
    try:
        chat.check()
    except BaseException:
        chat.close()
        raise
    return Llm(chat), LlmJudge(chat, cfg.passages), chat


def write(
    cascade: Cascade, tokenizer: TextTokenizer, cfg: FactScoreConfig, entities: Sequence[str], budget: float | None
) -> dict[str, str]:
    """A text about each of ``entities``, greedily; empty where the model stops at once.

    An unfinished last sentence is left out, unless there is no other: the writer was not allowed to end it.
    """
    context = cascade.model.config.context_length
    sampling = text_sampling(tokenizer.special, min(cfg.max_tokens, context // 2))
    openings = [cfg.opening.replace("{entity}", entity) for entity in entities]
    prompts = [
        [tokenizer.end_of_text_id, *tokenizer.encode(cfg.instruction.replace("{entity}", entity) + opening)]
        for entity, opening in zip(entities, openings, strict=True)
    ]
    requests = [CascadeRequest(ids[sampling.max_tokens - context :], sampling, budget=budget) for ids in prompts]
    texts = {}
    for entity, opening, answer in zip(entities, openings, cascade.answers(requests), strict=True):
        written = tokenizer.decode([id for id in answer.ids if id != tokenizer.end_of_text_id])
        text = f"{opening}{written}" if written.strip() else ""
        texts[entity] = _finished(text) if answer.finish == "length" else text
    return texts


def factscore(
    texts: Mapping[str, str],
    knowledge: Mapping[str, Article],
    splitter: Splitter,
    judge: Judge,
    gamma: int,
    cfg: BootstrapConfig,
) -> FactScore:
    """FActScore of ``texts`` by entity, each judged by the entity's article in ``knowledge``."""
    return score(judged(texts, knowledge, splitter, judge), gamma, cfg)


def abstains(text: str) -> bool:
    """Whether a text says nothing, or begins by saying that it cannot."""
    return not re.search(r"\w", text) or _ABSTAINS.search(text[:_BEGINNING_CHARACTERS]) is not None


def judged(
    texts: Mapping[str, str],
    knowledge: Mapping[str, Article],
    splitter: Splitter,
    judge: Judge,
) -> list[Response]:
    """Every text split and judged, in their order."""
    return [
        _response(entity, text, Passages(knowledge[entity]), splitter, judge)
        for entity, text in tqdm(texts.items(), desc="judging", unit=" texts")
    ]


def score(responses: Sequence[Response], gamma: int, cfg: BootstrapConfig) -> FactScore:
    """The scores over all ``responses``; at least one is needed."""
    spoken = [response for response in responses if response.status != "abstained"]
    scored = [response for response in spoken if response.status == "judged"]
    # What could not be split may hold any number of facts: it is counted, but no bound can be given for it.
    unknown = [[fact.supported for fact in response.facts] for response in spoken if response.facts]
    return FactScore(
        score=_mean([_supported(response) for response in scored], cfg),
        penalised=_mean([_supported(response) * penalty(len(response.facts), gamma) for response in scored], cfg),
        respond_ratio=len(spoken) / len(responses),
        facts_per_response=sum(len(response.facts) for response in spoken) / max(1, len(spoken)),
        entities=len(responses),
        judged=len(scored),
        failures=sum(
            response.unsplit + sum(fact.supported is None for fact in response.facts) for response in responses
        ),
        least=_plain_mean([sum(each is True for each in facts) / len(facts) for facts in unknown]),
        most=_plain_mean([sum(each is not False for each in facts) / len(facts) for facts in unknown]),
    )


def penalty(facts: int, gamma: int) -> float:
    """Factor for a response with few facts; 1 above ``gamma`` facts, or without a gamma."""
    return 1.0 if facts > gamma else math.exp(1 - gamma / facts)


def _finished(text: str) -> str:
    """``text`` without its last sentence if that is cut, and not the only one."""
    found = sentences(text)
    if len(found) < 2 or re.search(r"[.!?][\"'”’)]*$", found[-1]):
        return text
    return text[: text.rindex(found[-1])].rstrip()


def _response(entity: str, text: str, article: Passages, splitter: Splitter, judge: Judge) -> Response:
    if abstains(text):
        return Response(entity=entity, text=text, status="abstained", facts=[], unsplit=0)
    split = splitter.facts(sentences(text))
    unsplit = sum(isinstance(facts, ChatError) for facts in split)
    facts = [fact for found in split if not isinstance(found, ChatError) for fact in found]
    verdicts = judge.verdicts([Statement(entity, fact, article) for fact in facts])
    found = [
        FactVerdict(fact=fact, supported=None if isinstance(verdict, ChatError) else verdict)
        for fact, verdict in zip(facts, verdicts, strict=True)
    ]
    # A text without facts abstains, as in the paper; a text whose facts could not be split or judged does not.
    status: Status = "unjudged" if unsplit or found else "abstained"
    if any(verdict.supported is not None for verdict in found):
        status = "judged"
    return Response(entity=entity, text=text, status=status, facts=found, unsplit=unsplit)


def _supported(response: Response) -> float:
    verdicts = [fact.supported for fact in response.facts if fact.supported is not None]
    return sum(verdicts) / len(verdicts)


def _mean(scores: Sequence[float], cfg: BootstrapConfig) -> Interval | None:
    return ratio_interval(np.array(scores), np.ones(len(scores)), cfg) if scores else None


def _plain_mean(scores: Sequence[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None
