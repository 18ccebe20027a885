"""The report of an arena: the ranking, every meeting, some texts side by side. No numpy."""

from collections.abc import Iterator, Sequence

from components.core.durations import duration
from components.evaluation.arena.results import ELO_POINTS, ArenaResults, Meeting, Player, ShownGame
from components.evaluation.report_page import Section, Table, Words
from components.evaluation.results import Interval

_TEXT_CHARACTERS = 400
_LENGTH = (
    "Judges like long texts. At equal length: a logistic regression of winning on the difference of lengths, read "
    "where that difference is none (Dubois et al. 2024)."
)


def report(results: ArenaResults, games: Sequence[ShownGame]) -> Iterator[Section]:
    """What people read."""
    strengths = Table(
        ["model", "Elo points", "interval", "mean length", "tokens", "calls", "time"],
        [_player(player) for player in results.players],
    )
    meetings = Table(
        ["model", "against", "games", "won", "interval", "won at equal length", "interval", "longer by"],
        [_meeting(meeting) for meeting in results.meetings],
    )
    yield Section("Who is stronger", [Words(_verdict(results)), strengths, Words(_how_to_read(results))])
    yield Section("Meetings", [meetings, Words(_LENGTH)])
    if games:
        header = ["prompt", "winner", "its text", "loser", "its text", "the judge"]
        yield Section("Some games", [Table(header, [_game(game) for game in games])])


def _how_to_read(results: ArenaResults) -> str:
    return (
        "Strengths are those of Bradley and Terry (1952), their mean is 0: with 100 points more, a model wins 64 % of "
        f"its games. Intervals cover {results.confidence:.0%} of the resamples (bootstrap over prompts), uncorrected."
    )


def _verdict(results: ArenaResults) -> str:
    first, second = results.players[:2]
    apart = first.strength.low > second.strength.high
    of_all = f"of {len(results.players)} models on {results.prompts:,} prompts"
    words = [
        f"{first.model} is the strongest {of_all}."
        if apart
        else f"None is shown to be the strongest {of_all}: the intervals of {first.model} and {second.model} overlap.",
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
    texts = (cell for name, text in (game.winner, game.loser) for cell in (name, text[:_TEXT_CHARACTERS]))
    return [game.prompt, *texts, game.said]
