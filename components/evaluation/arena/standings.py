"""From the rows of an arena to its result: strengths, win rates with and without the effect of length, order bias."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from components.evaluation.arena.bradley_terry import ranked, require_connected
from components.evaluation.arena.length_control import win_rates
from components.evaluation.arena.play import CHARACTERS, FIRST, WIN
from components.evaluation.arena.results import ArenaResults, Meeting, Player, ShownGame
from components.evaluation.config import BootstrapConfig
from components.evaluation.results import Interval
from components.evaluation.score_table import Score, rows


def standings(scores: pa.Table, judge: str, cfg: BootstrapConfig) -> ArenaResults:
    """Everything that the games show. Raises ``InputError`` where they do not connect all models."""
    everything = rows(scores)
    written = [score for score in everything if score.metric == CHARACTERS]
    games = [score for score in everything if score.metric == WIN]
    names = list(dict.fromkeys(score.model for score in written))
    prompts = list(dict.fromkeys(score.document for score in written))
    wins = _wins(games, names, prompts)
    require_connected(wins, names)
    strengths = ranked(wins, cfg)
    lengths = {(score.model, score.document): score.score for score in written}
    players = [_player(name, strength, written) for name, strength in zip(names, strengths, strict=True)]
    return ArenaResults(
        judge=judge,
        prompts=len(prompts),
        confidence=cfg.confidence,
        players=sorted(players, key=lambda each: -each.strength.estimate),
        meetings=_meetings(wins, names, prompts, lengths, cfg),
        first_wins=_first_wins(games),
        undecided=sum(game.weight == 0 for game in games) // 2,
    )


def _wins(
    games: Iterable[Score], names: Sequence[str], prompts: Sequence[str]
) -> Float[np.ndarray, "prompts models models"]:
    place, model = ({each: n for n, each in enumerate(every)} for every in (prompts, names))
    wins = np.zeros((len(prompts), len(names), len(names)))
    for game in games:
        detail = json.loads(game.detail)
        wins[place[detail["prompt"]], model[game.model], model[detail["against"]]] += game.score
    return wins


def _player(name: str, strength: Interval, written: Sequence[Score]) -> Player:
    own = [score for score in written if score.model == name]
    return Player(
        model=name,
        strength=strength,
        characters=float(np.mean([score.score for score in own])),
        tokens=sum(score.tokens for score in own),
        calls=sum(score.calls for score in own),
        seconds=sum(score.seconds for score in own),
    )


def _meetings(
    wins: Float[np.ndarray, "prompts models models"],
    names: Sequence[str],
    prompts: Sequence[str],
    lengths: Mapping[tuple[str, str], float],
    cfg: BootstrapConfig,
) -> list[Meeting]:
    found = []
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            played = wins[:, i, j] + wins[:, j, i]
            if i >= j or not played.any():
                continue
            decided = played > 0
            longer = np.array([lengths[one, prompt] - lengths[other, prompt] for prompt in prompts])[decided]
            rates = win_rates(wins[decided, i, j] / played[decided], longer, cfg)
            found.append(
                Meeting(
                    model=one,
                    against=other,
                    games=int(played.sum()),
                    win_rate=rates.plain,
                    win_rate_at_equal_length=rates.controlled,
                    longer_by=float(longer.mean()),
                )
            )
    return found


def _first_wins(games: Iterable[Score]) -> float | None:
    """How often the text that the judge saw first won; 0.5 for a judge without a preference."""
    sums = defaultdict[str, float](float)
    for game in games:
        if game.format == FIRST:
            sums["won"] += game.score
            sums["games"] += game.weight
    return sums["won"] / sums["games"] if sums["games"] else None


def some_games(scores: pa.Table, count: int) -> list[ShownGame]:
    """``count`` decided games, spread over the prompts and the pairs."""
    everything = rows(scores)
    texts = {
        (score.model, score.document): json.loads(score.detail)["text"]
        for score in everything
        if score.metric == CHARACTERS
    }
    won = [(score, json.loads(score.detail)) for score in everything if score.metric == WIN and score.score == 1]
    return [
        ShownGame(
            prompt=detail["prompt"],
            winner=(score.model, texts[score.model, detail["prompt"]]),
            loser=(detail["against"], texts[detail["against"], detail["prompt"]]),
            said=detail["said"],
        )
        for score, detail in won[:: max(1, len(won) // count)][:count]
    ]
