"""The games of an arena as rows of the table of scores: first every model writes, then the judge decides.

    metric       model   document              format   score                          detail
    characters   A       prompt                         length of what A wrote          the text
    win          A       prompt against B      first    1, 0.5 or 0; weight 0 where     JSON: the opponent, the prompt,
                                               second   the judge gave no answer        what the judge said

``format`` says where the text of ``model`` stood; it is empty for a judge that does not see the order. Both are made in
pieces: an arena that was killed, or whose judge went away, goes on where it was.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import pyarrow as pa

from components.core.errors import InputError
from components.evaluation.arena.config import ArenaConfig
from components.evaluation.arena.judges import Duel, Judge, Text, Verdict
from components.evaluation.cost import measured
from components.evaluation.score_table import Piece, Score, complete, rows
from components.evaluation.text_models.base import TextModel

TASK = "arena"
CHARACTERS, WIN = "characters", "win"
FIRST, SECOND = "first", "second"

_AT_ONCE = 16  # prompts of a piece
_WRITING = 0.7  # share of the time

Report = Callable[[float, str], None]
Texts = Mapping[tuple[str, str], Text]
"""What was written, by model and prompt."""


def play(
    models: Sequence[TextModel], judge: Judge, prompts: Sequence[str], cfg: ArenaConfig, folder: Path, report: Report
) -> pa.Table:
    """All rows: texts and games. Raises ``ServiceError`` where a model or the judge does not answer.

    Arguments:
        models: at least two, of different names.
        judge: decides.
        prompts: different ones.
        cfg: how long texts are, and who meets whom.
        folder: where the pieces lie; it stands for the content of everything above.
        report: told the fraction done and what is next.
    """
    names = [model.name for model in models]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"an arena needs at least two different models; given: {', '.join(names) or 'none'}")
    chunks = [list(prompts[start : start + _AT_ONCE]) for start in range(0, len(prompts), _AT_ONCE)]
    written = complete(folder, _writing(models, chunks, cfg), lambda done, name: report(_WRITING * done, name))
    texts = _texts(written)
    games = _games(names, judge, chunks, texts, cfg)
    decided = complete(folder, games, lambda done, name: report(_WRITING + (1 - _WRITING) * done, name))
    return pa.concat_tables([written, decided])


def _writing(models: Sequence[TextModel], chunks: Sequence[Sequence[str]], cfg: ArenaConfig) -> dict[str, Piece]:
    return {
        (name := f"{model.name} writes {number}"): measured(_texts_of(model, chunk, cfg), name)
        for model in models
        for number, chunk in enumerate(chunks)
    }


def _texts_of(model: TextModel, prompts: Sequence[str], cfg: ArenaConfig) -> Piece:
    def make() -> list[Score]:
        began = time.monotonic()
        written = model.write(prompts, cfg.max_tokens, presence_penalty=cfg.presence_penalty)
        seconds = (time.monotonic() - began) / max(1, sum(each.tokens for each in written))
        return [
            Score(
                model.name,
                TASK,
                prompt,
                CHARACTERS,
                score=float(len(each.text)),
                tokens=each.tokens,
                calls=each.calls,
                seconds=seconds * each.tokens,
                detail=json.dumps({"text": each.text, "finished": each.tokens < cfg.max_tokens}, ensure_ascii=False),
            )
            for prompt, each in zip(prompts, written, strict=True)
        ]

    return make


def _texts(written: pa.Table) -> Texts:
    details = (
        (score.model, score.document, json.loads(score.detail)) for score in rows(written) if score.metric == CHARACTERS
    )
    return {(model, prompt): Text(each["text"], each["finished"]) for model, prompt, each in details}


def _games(
    names: Sequence[str], judge: Judge, chunks: Sequence[Sequence[str]], texts: Texts, cfg: ArenaConfig
) -> dict[str, Piece]:
    pairs = list(combinations(names, 2)) if cfg.pairs == "all" else [(names[0], other) for other in names[1:]]
    return {
        f"{one} against {other} {number}": _decided(judge, one, other, chunk, texts)
        for one, other in pairs
        for number, chunk in enumerate(chunks)
    }


def _decided(judge: Judge, one: str, other: str, prompts: Sequence[str], texts: Texts) -> Piece:
    orders = [(one, other), (other, one)] if judge.sees_order else [(one, other)]
    games = [(prompt, first, second) for prompt in prompts for first, second in orders]

    def make() -> list[Score]:
        duels = [Duel(prompt, texts[first, prompt], texts[second, prompt]) for prompt, first, second in games]
        verdicts = judge.verdicts(duels)
        places = (FIRST, SECOND) if judge.sees_order else ("", "")
        return [
            score
            for (prompt, first, second), verdict in zip(games, verdicts, strict=True)
            for score in _both_sides(prompt, (first, second), places, verdict)
        ]

    return make


def _both_sides(prompt: str, players: tuple[str, str], places: tuple[str, str], verdict: Verdict) -> Iterator[Score]:
    own = verdict.score
    for player, opponent, place in zip(players, players[::-1], places, strict=True):
        score = 0.0 if own is None else own if player == players[0] else 1 - own
        detail = json.dumps({"prompt": prompt, "against": opponent, "said": verdict.said}, ensure_ascii=False)
        yield Score(
            player,
            TASK,
            f"{prompt} against {opponent}",
            WIN,
            score,
            weight=float(own is not None),
            format=place,
            detail=detail,
        )
