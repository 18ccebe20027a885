"""Progress of one part of a stage: to the flow through ``run.report``, to people as a bar on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from components.core.run import Run

# The flow hears of every further share of the stage, not of every batch.
_REPORTED_EVERY = 0.01


@contextmanager
def progress(run: Run, message: str, begin: float, end: float) -> Iterator[Callable[[float], None]]:
    """Yield a function that takes the fraction of this part; the part spans ``begin`` to ``end`` of the stage."""
    run.report(begin, message)
    reported = begin
    with tqdm(total=1.0, desc=message, bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}") as bar:

        def update(fraction: float) -> None:
            nonlocal reported
            bar.update(fraction - bar.n)
            now = begin + (end - begin) * fraction
            if now - reported >= _REPORTED_EVERY:
                run.report(now, message)
                reported = now

        yield update
