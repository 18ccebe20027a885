"""What the served model is asked to show what it can do, and its answer as people see it.

The prompts are those of the assessment, in its order: the beginnings of factual sentences, then those of held-out
documents. Nothing is chosen by how good the answer is.
"""

from collections.abc import Sequence
from pathlib import Path

from components.cascade.authors import AuthorSpan
from components.data.world.comprehension import World
from components.deployment.artifact import SmokeAnswer
from components.evaluation.artifacts import Scores
from components.evaluation.factuality.stated import stated_facts

NOT_CHECKED = "not checked: only the facts of the closed world are known"
PROMPTS_OF_A_KIND = 3
NOTHING_STATED = "it states no fact that can be looked up"


def prompts_of(assessment: Scores, asks: bool) -> list[str]:
    """Prompts to choose from, each once; of a plain model, only the questions that it answered right."""
    answers = [answer.prompt for answer in assessment.answers() if asks or answer.correct]
    return list(dict.fromkeys(filter(str.strip, [*answers, *(sample.prompt for sample in assessment.samples())])))


def prompts_to_try(assessment: Scores) -> list[str]:
    """A few prompts of each kind for whoever has none, spread over all of them; none if nothing was asked."""
    questions = [answer.prompt for answer in assessment.answers()]
    sampled = (assessment.folder / Scores.SAMPLES).is_file()
    texts = [sample.prompt for sample in assessment.samples()] if sampled else []
    return list(dict.fromkeys(filter(str.strip, [*_spread(questions), *_spread(texts)])))


def _spread(prompts: Sequence[str]) -> Sequence[str]:
    return prompts[:: max(1, len(prompts) // PROMPTS_OF_A_KIND)][:PROMPTS_OF_A_KIND]


def asked_and_answered(spans: Sequence[AuthorSpan]) -> bool:
    """Whether the helper wrote something of these parts of an answer."""
    return any(span.author == "helper" and span.text.strip() for span in spans)


def marked(spans: Sequence[AuthorSpan]) -> str:
    """The answer on one line, the helper's words between marks."""
    begin, end = SmokeAnswer.MARKS
    parts = []
    for span in spans:
        words = span.text.strip()
        if span.author == "helper" and words:
            before, _, after = span.text.partition(words)
            parts.append(f"{before}{begin}{words}{end}{after}")
        else:
            parts.append(span.text)
    return " ".join("".join(parts).split())


def truth(prompt: str, answer: str, finished: bool, facts: Path | None) -> str:
    """Whether what ``answer`` states is true, by the fact table ``facts``; of other text nothing can be said."""
    if facts is None:
        return NOT_CHECKED
    _, claims = stated_facts(World.load(facts), prompt + answer, finished=finished)
    new = [claim for claim in claims if claim.end > len(prompt)]
    if not new:
        return NOTHING_STATED
    false = [claim.stated for claim in new if not claim.true]
    right = f"{len(new) - len(false)} of {len(new)} facts, looked up"
    return f"no, {right}; wrong: {', '.join(false)}" if false else f"yes, {right}"
