"""The report of an arena: the ranking, every meeting, some texts side by side. No numpy."""

from collections.abc import Iterator, Sequence

from components.core.durations import duration
from components.evaluation.arena.results import ELO_POINTS, ArenaResults, Meeting, Player, ShownGame
from components.evaluation.report_parts import Part, Table
from components.evaluation.results import Interval

_TEXT_CHARACTERS = 400


def report(results: ArenaResults, games: Sequence[ShownGame]) -> Iterator[Part]:
    """What people read."""
    yield _verdict(results)
    yield Table(
        "Strength",
        ["model", "Elo points", "interval", "mean length", "tokens", "calls", "time"],
        [_player(player) for player in results.players],
    )
    yield (
        "Strengths are those of Bradley and Terry, their mean is 0: with 100 points more, a model wins 64 % of its "
        f"games. Intervals cover {results.confidence:.0%} of the resamples (bootstrap over prompts), uncorrected. At "
        "equal length: a logistic regression of winning on the difference of lengths, without that difference (Dubois "
        "et al. 2024)."
    )
    yield Table(
        "Meetings",
        ["", "", "games", "won by the first", "interval", "at equal length", "interval", "longer by"],
        [_meeting(meeting) for meeting in results.meetings],
    )
    if games:
        yield Table("Some games", ["prompt", "winner's text", "loser's text", "the judge"], [_game(g) for g in games])


def _verdict(results: ArenaResults) -> str:
    first, second = results.players[:2]
    apart = first.strength.low > second.strength.high
    words = [
        f"{first.model} is the strongest of {len(results.players)} models on {results.prompts:,} prompts"
        + ("." if apart else f", but the intervals of {first.model} and {second.model} overlap."),
        f"The judge is {results.judge}.",
    ]
    if results.first_wins is not None:
        words.append(f"The text that it saw first won {results.first_wins:.0%} of the games; both orders were played.")
    if results.undecided:
        words.append(f"In {results.undecided:,} games it gave no usable answer; they count for nothing.")
    return " ".join(words)


def _player(player: Player) -> list[str]:
    points, low, high = (ELO_POINTS * each for each in player.strength)
    return [
        player.model,
        f"{points:+.0f}",
        f"{low:+.0f} to {high:+.0f}",
        f"{player.characters:,.0f} characters",
        f"{player.tokens:,}",
        f"{player.calls:,}",
        duration(player.seconds),
    ]


def _meeting(meeting: Meeting) -> list[str]:
    controlled = meeting.win_rate_at_equal_length
    return [
        meeting.model,
        meeting.against,
        f"{meeting.games:,}",
        f"{meeting.win_rate.estimate:.1%}",
        _interval(meeting.win_rate),
        "lengths hardly overlap" if controlled is None else f"{controlled.estimate:.1%}",
        "" if controlled is None else _interval(controlled),
        f"{meeting.longer_by:+,.0f} characters",
    ]


def _interval(interval: Interval) -> str:
    return f"{interval.low:.1%} to {interval.high:.1%}"


def _game(game: ShownGame) -> list[str]:
    return [game.prompt, *(f"{name}: {text[:_TEXT_CHARACTERS]}" for name, text in (game.winner, game.loser)), game.said]
