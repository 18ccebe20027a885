"""Bar and line charts as SVG, written by hand: the lane has no plotting library."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 760, 400, 64, 48, 48, 190
COLOURS = ["#3b6fb6", "#d1703c", "#4c9a6a", "#8d6cab", "#b9a13c", "#7a7a7a", "#c25b7c", "#4aa3b5"]


def write_bars(path: Path, title: str, unit: str, groups: Mapping[str, Mapping[str, float]]) -> None:
    """One group of bars for each entry of ``groups``; its bars are named alike in every group."""
    series = _series(groups.values())
    scale = _Scale([value for group in groups.values() for value in group.values()])
    slot = (WIDTH - LEFT - RIGHT) / max(len(groups), 1)
    bar = 0.8 * slot / max(len(series), 1)
    parts = [*_frame(title, unit, scale), *_legend(series)]
    for place, (name, group) in enumerate(groups.items()):
        start = LEFT + place * slot + 0.1 * slot
        for series_name, value in group.items():
            number = series.index(series_name)
            top = scale.y(value)
            tip = f"<title>{escape(name)}, {escape(series_name)}: {value:.4g} {escape(unit)}</title>"
            size = (
                f'x="{start + number * bar:.1f}" y="{top:.1f}" width="{bar * 0.92:.1f}" height="{scale.y(0) - top:.1f}"'
            )
            parts.append(f'<rect {size} fill="{_colour(number)}">{tip}</rect>')
        parts.append(_text(start + 0.4 * slot, HEIGHT - BOTTOM + 18, name, "middle"))
    _write(path, parts)


def write_lines(path: Path, title: str, unit: str, lines: Mapping[str, Mapping[float, float]]) -> None:
    """One line for each entry of ``lines``, over x values that are spaced evenly: lengths double at each."""
    xs = sorted({x for line in lines.values() for x in line})
    series = list(lines)
    scale = _Scale([value for line in lines.values() for value in line.values()])
    step = (WIDTH - LEFT - RIGHT) / max(len(xs), 1)
    parts = [*_frame(title, unit, scale), *_legend(series)]
    for number, line in enumerate(lines.values()):
        points = [(LEFT + (xs.index(x) + 0.5) * step, scale.y(value)) for x, value in sorted(line.items())]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{_colour(number)}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_colour(number)}"/>' for x, y in points]
    parts += [
        _text(LEFT + (place + 0.5) * step, HEIGHT - BOTTOM + 18, f"{x:g}", "middle") for place, x in enumerate(xs)
    ]
    _write(path, parts)


class _Scale:
    """From a value to a height on the page; ticks at one, two or five times a power of ten."""

    def __init__(self, values: Sequence[float]) -> None:
        highest = max(values, default=0.0) or 1.0
        power = 10.0 ** len(f"{int(highest)}") / 100 if highest >= 1 else highest / 10
        self.tick = next((power * factor for factor in (1, 2, 5, 10, 20, 50) if power * factor * 6 >= highest), highest)
        self.top = self.tick * (int(highest / self.tick) + 1)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.top

    def ticks(self) -> list[float]:
        return [self.tick * number for number in range(round(self.top / self.tick) + 1)]


def _frame(title: str, unit: str, scale: _Scale) -> list[str]:
    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', _text(LEFT, 22, title, "start", 15)]
    parts.append(_text(LEFT, 40, unit, "start"))
    for value in scale.ticks():
        y = scale.y(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{value:.4g}", "end"))
    return parts


def _legend(series: Sequence[str]) -> list[str]:
    parts = []
    for number, name in enumerate(series):
        y = TOP + 18 * number
        parts.append(f'<rect x="{WIDTH - RIGHT + 14}" y="{y}" width="11" height="11" fill="{_colour(number)}"/>')
        parts.append(_text(WIDTH - RIGHT + 31, y + 10, name, "start"))
    return parts


def _series(groups: Iterable[Mapping[str, float]]) -> list[str]:
    names: dict[str, None] = {}
    for group in groups:
        names.update(dict.fromkeys(group))
    return list(names)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _text(x: float, y: float, words: str, anchor: str, size: int = 12) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f'<text {place} font-family="sans-serif" fill="#333333">{escape(words)}</text>'


def _write(path: Path, parts: Sequence[str]) -> None:
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>\n')
