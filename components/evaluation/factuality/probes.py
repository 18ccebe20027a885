"""Questions about real entities, answered by the small model alone and by the cascade, by greedy continuation.

Any JSONL like EntityQuestions (Sciavolino et al. 2021, arXiv:2109.08535) will do. A line has

    subject or entity                       what the question is about
    answers, or answer and aliases,         what may follow
      or birth_year
    prompt, or template with {subject},     the text to continue; a Wikidata relation that is known here
      or relation, or question              is put as a statement, any other as question and answer
    in_pretrain                             null, or where the training text writes about the subject

A model that knows when to ask calls at the first token of the answers that it would get wrong, and not at the others.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.cascade.decoding import Cascade, CascadeAnswer, CascadeRequest
from components.core.atomic import write_text
from components.core.errors import InputError
from components.data.tokenizer import TextTokenizer
from components.evaluation.bootstrap import ratio_interval
from components.evaluation.config import BootstrapConfig, ProbesConfig
from components.evaluation.factuality.real_text import ProbeAnswer, ProbeResults, ProbeScore
from components.evaluation.factuality.records import json_lines
from components.evaluation.heldout import first_shuffled
from components.evaluation.questions import begins_with
from components.model.generate import text_sampling

# A model of text continues statements; few have ever read a question with its answer. Wikidata's relations:
_STATEMENTS = {
    "P106": "{subject} worked as a",
    "P112": "{subject} was founded by",
    "P127": "{subject} is owned by",
    "P131": "{subject} is located in",
    "P136": "The genre of {subject} is",
    "P159": "The headquarters of {subject} are in",
    "P17": "{subject} lies in the country of",
    "P170": "{subject} was created by",
    "P175": "{subject} was performed by",
    "P176": "{subject} is produced by",
    "P19": "{subject} was born in",
    "P20": "{subject} died in",
    "P26": "{subject} was married to",
    "P264": "{subject} recorded for the label",
    "P276": "The location of {subject} is",
    "P36": "The capital of {subject} is",
    "P40": "{subject} was the parent of",
    "P407": "{subject} was written in",
    "P413": "{subject} plays in the position of",
    "P495": "{subject} comes from",
    "P50": "{subject} was written by",
    "P69": "{subject} was educated at",
    "P740": "{subject} was founded in",
    "P800": "{subject} is best known for",
}
_ARTICLE = re.compile(r"\s*(?:an?|the)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Probe:
    """One text to continue."""

    subject: str
    relation: str
    prompt: str
    accepted: tuple[str, ...]
    known: bool | None
    """Whether the training text writes about the subject, where the file tells."""


def read_probes(path: Path, limit: int) -> list[Probe]:
    """At most ``limit`` probes by a fixed shuffle; half of them about known subjects if there are so many.

    Raises ``InputError`` naming the line that is no probe.
    """
    probes = [_probe(row, place) for place, row in json_lines(path, "facts.probes.files")]
    if not probes:
        raise InputError(f"{path} holds no probe: give one JSON object a line")
    known = [probe for probe in probes if probe.known]
    others = [probe for probe in probes if not probe.known]
    few = min(len(known), max(limit // 2, limit - len(others)))
    return [
        *(known[i] for i in first_shuffled(len(known), few)),
        *(others[i] for i in first_shuffled(len(others), limit - few)),
    ]


def run_probes(
    cascade: Cascade,
    tokenizer: TextTokenizer,
    probes: ProbesConfig,
    cfg: BootstrapConfig,
    answers_file: Path | None = None,
    report: Callable[[float], None] = lambda fraction: None,
) -> list[ProbeResults]:
    """Answer every file of ``probes`` with calls forbidden, and with calls up to the budget of ``cascade``.

    Every answer becomes a line of ``answers_file``.
    """
    files = [(name, read_probes(Path(name), probes.per_file)) for name in probes.files]  # all are read before any work
    results, lines = [], []
    for number, (name, members) in enumerate(files):
        answers = ask(cascade, tokenizer, Path(name).name, members, probes.max_tokens)
        results.append(probe_results(answers, cfg))
        lines += [json.dumps(answer.model_dump(), ensure_ascii=False) + "\n" for answer in answers]
        report((number + 1) / len(files))
    if answers_file is not None:
        write_text(answers_file, "".join(lines))
    return results


def ask(
    cascade: Cascade, tokenizer: TextTokenizer, file: str, probes: Sequence[Probe], max_tokens: int
) -> list[ProbeAnswer]:
    """Continue every prompt greedily, alone and as a cascade; a prompt that is too long keeps its end."""
    context = cascade.model.config.context_length
    # The hard budget of a request is a share of this: with ten tokens, 5 % of calls would be none at all.
    sampling = text_sampling(tokenizer.special, min(max_tokens, context // 2))
    prompts = [
        # A space at the end would be a token of its own: in text it belongs to the word that follows.
        [tokenizer.end_of_text_id, *tokenizer.encode(probe.prompt.rstrip())][sampling.max_tokens - context :]
        for probe in probes
    ]
    alone = cascade.answers([CascadeRequest(prompt, sampling, budget=0.0) for prompt in prompts])
    asked = cascade.answers([CascadeRequest(prompt, sampling) for prompt in prompts])
    return [
        _answer(tokenizer, file, probe, without, with_calls)
        for probe, without, with_calls in zip(probes, alone, asked, strict=True)
    ]


def probe_results(answers: Sequence[ProbeAnswer], cfg: BootstrapConfig) -> ProbeResults:
    """Scores of one file with intervals over its probes; at least one answer is needed."""
    relations = defaultdict(list)
    for answer in answers:
        relations[answer.relation].append(answer)
    parts = {"all": list(answers)}
    if any(answer.known for answer in answers):
        parts["head"] = [answer for answer in answers if answer.known]
        parts["tail"] = [answer for answer in answers if answer.known is False]
    return ProbeResults(
        file=answers[0].file,
        parts={name: _score(members, cfg) for name, members in parts.items() if members},
        relations={
            name: (
                len(members),
                _share([answer.alone_right for answer in members]),
                _share([answer.cascade_right for answer in members]),
            )
            for name, members in sorted(relations.items())
        },
        leakage=_share([_holds(answer.alone, answer.accepted) for answer in answers]),
        asked=_share([answer.asked for answer in answers]),
        asked_where_wrong=_share_or_none([answer.asked for answer in answers if not answer.alone_right]),
        asked_where_right=_share_or_none([answer.asked for answer in answers if answer.alone_right]),
        calls=sum(answer.calls for answer in answers) / max(1, sum(answer.decisions for answer in answers)),
        failed_calls=sum(answer.failed_calls for answer in answers),
    )


def answers_with(text: str, accepted: Sequence[str]) -> bool:
    """Whether ``text`` begins with the words of an accepted answer; case, punctuation and articles do not matter."""
    return any(begins_with(text, answer) or begins_with(_bare(text), _bare(answer)) for answer in accepted)


def _bare(text: str) -> str:
    found = _ARTICLE.match(text)
    return text[found.end() :] if found else text


def _holds(text: str, accepted: Sequence[str]) -> bool:
    words = text.split()
    return any(begins_with(" ".join(words[start:]), answer) for start in range(len(words)) for answer in accepted)


def _answer(
    tokenizer: TextTokenizer, file: str, probe: Probe, alone: CascadeAnswer, cascade: CascadeAnswer
) -> ProbeAnswer:
    without, with_calls = _text(tokenizer, alone), _text(tokenizer, cascade)
    first = cascade.tokens[0]
    return ProbeAnswer(
        file=file,
        subject=probe.subject,
        relation=probe.relation,
        known=probe.known,
        prompt=probe.prompt,
        accepted=list(probe.accepted),
        alone=without,
        cascade=with_calls,
        alone_right=answers_with(without, probe.accepted),
        cascade_right=answers_with(with_calls, probe.accepted),
        asked=first.call != "none",
        call_probability=first.call_probability,
        decisions=cascade.summary.decisions,
        calls=cascade.summary.calls,
        failed_calls=cascade.summary.failed_calls,
    )


def _text(tokenizer: TextTokenizer, answer: CascadeAnswer) -> str:
    return tokenizer.decode([id for id in answer.ids if id != tokenizer.end_of_text_id])


def _score(answers: Sequence[ProbeAnswer], cfg: BootstrapConfig) -> ProbeScore:
    ones = np.ones(len(answers))
    alone = np.array([answer.alone_right for answer in answers], dtype=np.float64)
    cascade = np.array([answer.cascade_right for answer in answers], dtype=np.float64)
    return ProbeScore(
        probes=len(answers), alone=ratio_interval(alone, ones, cfg), cascade=ratio_interval(cascade, ones, cfg)
    )


def _share(values: Sequence[bool]) -> float:
    return Counter(values)[True] / max(1, len(values))


def _share_or_none(values: Sequence[bool]) -> float | None:
    return _share(values) if values else None


def _probe(row: dict[str, Any], place: str) -> Probe:
    subject = row.get("subject", row.get("entity"))
    if not isinstance(subject, str) or not subject.strip():
        raise InputError(f"{place} is no probe: it needs `subject` (or `entity`), a text; given {subject!r}")
    relation = row.get("relation", "birth_year" if "birth_year" in row else "")
    if not isinstance(relation, str):
        raise InputError(f"{place} is no probe: `relation` is a text; given {relation!r}")
    known = row.get("in_pretrain")
    return Probe(
        subject=subject,
        relation=relation,
        prompt=_prompt(row, subject, relation, place),
        accepted=_accepted(row, place),
        known=bool(known) if "in_pretrain" in row else None,
    )


def _prompt(row: dict[str, Any], subject: str, relation: str, place: str) -> str:
    for field in ("prompt", "template", "question"):
        if field in row and not (isinstance(row[field], str) and row[field].strip()):
            raise InputError(f"{place} is no probe: `{field}` is a text that is not empty; given {row[field]!r}")
    if "prompt" in row:
        return str(row["prompt"])
    if (template := row.get("template", _STATEMENTS.get(relation))) is not None:
        if "{subject}" not in template:
            raise InputError(f"{place} is no probe: `template` must hold {{subject}}; given {template!r}")
        return str(template).replace("{subject}", subject)
    if "question" in row:
        return f"Question: {row['question']}\nAnswer:"
    raise InputError(
        f"{place} is no probe: it needs `prompt`, `template`, `question` or a `relation` that is known here"
    )


def _accepted(row: dict[str, Any], place: str) -> tuple[str, ...]:
    if "answers" in row:
        given = row["answers"]
    elif "answer" in row:
        given = [row["answer"], *(row.get("aliases") or [])]
    else:
        given = [row["birth_year"]] if "birth_year" in row else []
    if not isinstance(given, list) or not given or not all(isinstance(text, str) and text.strip() for text in given):
        raise InputError(
            f"{place} is no probe: it needs `answers` (a list of texts), or `answer` with `aliases`, or `birth_year`; "
            f"given {given!r}"
        )
    return tuple(given)
