"""How far the prepare stage is: a bar for people, and reports for the flow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from tqdm import tqdm

from components.core.run import Run
from components.data.sources import SourceFile

_MILLION = 1_000_000


def counted(run: Run, texts: list[str], start: float, stop: float) -> Iterator[str]:
    """The texts one after another, with reports of how many characters have been taken."""
    total = max(1, sum(map(len, texts)))
    taken, reported = 0, 0.0
    for text in texts:
        yield text
        taken += len(text)
        if taken / total - reported >= 0.05:
            reported = taken / total
            part = f"{taken / _MILLION:.1f} of {total / _MILLION:.1f} million characters"
            run.report(start + (stop - start) * reported, f"counting words: {part}")


@contextmanager
def reading(run: Run, title: str, files: list[SourceFile], start: float, stop: float) -> Iterator["Progress"]:
    """A bar for people and reports for the flow, both over the bytes read from disk."""
    total = max(1, sum(file.path.stat().st_size for file in files))
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, mininterval=0.5) as bar:
        yield Progress(run, title, total, start, stop, bar)


class Progress:
    """How much of the sources was read, and of a long document, encoded."""

    def __init__(self, run: Run, title: str, total: int, start: float, stop: float, bar: "tqdm[NoReturn]") -> None:
        self._run, self._title, self._bar = run, title, bar
        self._total, self._start, self._stop = total, start, stop
        self._done = 0
        self._reported = start

    def read(self, count: int) -> None:
        """Another ``count`` bytes were read from disk."""
        self._done += count
        self._bar.update(count)
        fraction = self._start + (self._stop - self._start) * min(1.0, self._done / self._total)
        if fraction - self._reported >= 0.01:
            megabytes = f"{self._done / _MILLION:.1f} of {self._total / _MILLION:.1f} MB"
            self._run.report(fraction, f"{self._title}: {megabytes}")
            self._reported = fraction

    def encoded(self, done: int, total: int) -> None:
        """``done`` of the ``total`` characters of one long document are encoded, after all of it was read."""
        part = f"{done / _MILLION:.1f} of {total / _MILLION:.1f} million characters of one document"
        self._bar.set_postfix_str(part)
        self._run.report(self._reported, f"{self._title}: {part}")
