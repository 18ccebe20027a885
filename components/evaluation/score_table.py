"""One table of scores for all evaluations: a row for each model, task, example, format and metric.

Likelihood, harness, factuality, robustness and arena write it; gate, report and comparison read it. A metric is a ratio
of sums over examples, so a row holds both: the value of a metric is ``sum(score) / sum(weight)``, two models are paired
by ``task``, ``document`` and ``format``, and intervals come from examples that are drawn again.

An evaluation is made of pieces, each of which is written whole as a Parquet file. So a killed evaluation goes on where
it was, and several workers share one: whoever holds a piece's lock makes it, and the system releases the locks of the
dead.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from components.core.atomic import replacing
from components.core.errors import ArtifactError

SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("task", pa.string()),
        ("document", pa.string()),
        ("format", pa.string()),
        ("metric", pa.string()),
        ("score", pa.float64()),
        ("weight", pa.float64()),
        ("tokens", pa.int64()),
        ("calls", pa.int64()),
        ("seconds", pa.float64()),
        ("detail", pa.string()),
    ]
)

_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Score:
    """One row: one metric of one model on one example."""

    model: str
    """Name of the model, unique within the table."""
    task: str
    """Name of the task, or of the domain of a text."""
    document: str
    """Id of the example, the same for every model."""
    metric: str
    score: float
    """Numerator of the metric: 1 for a right answer, bits of a text."""
    weight: float = 1.0
    """Denominator: 1 for an answer, bytes of a text."""
    format: str = ""
    """How the example was put: ``letter``, ``cloze``, a template, a perturbation; empty where there is one way."""
    tokens: int = 0
    """Tokens that the model read and wrote for it."""
    calls: int = 0
    """How often the helper was asked."""
    seconds: float = 0.0
    """Time of the example; a batch's time is divided by tokens."""
    detail: str = ""
    """What the model said, for people; JSON where it is more than text."""


def table(scores: Iterable[Score]) -> pa.Table:
    """The rows as a table of ``SCHEMA``."""
    return pa.Table.from_pylist([asdict(score) for score in scores], SCHEMA)


def rows(scores: pa.Table) -> list[Score]:
    """The table as rows."""
    return [Score(**row) for row in scores.to_pylist()]


def write_scores(path: Path, scores: pa.Table) -> None:
    """Write ``scores`` to ``path`` at once or not at all."""
    with replacing(path) as temporary:
        pq.write_table(scores, temporary)


def read_scores(path: Path) -> pa.Table:
    """Read a table of scores; raises ``ArtifactError`` for a file that is none."""
    try:
        found = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{path} is no table of scores: {error}") from error
    missing = [name for name in SCHEMA.names if name not in found.column_names]
    if missing:
        raise ArtifactError(f"{path} is no table of scores: it has no column {', '.join(missing)}")
    return found.select(SCHEMA.names).cast(SCHEMA)


Piece = Callable[[], Sequence[Score]]


def complete(
    folder: Path,
    pieces: Mapping[str, Piece],
    report: Callable[[float, str], None] = lambda fraction, name: None,
) -> pa.Table:
    """Make the pieces that ``folder`` does not hold yet, and return all rows in the order of ``pieces``.

    Arguments:
        folder: one file for each piece; several processes may call this on the same folder at the same time.
        pieces: by name, what makes the rows. The name says everything that decides them, but for what decides the
            folder.
        report: called with the fraction done and the name of the piece that is next.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = dict(pieces)
    while waiting:
        before = len(waiting)
        for name, make in list(waiting.items()):
            report(1 - len(waiting) / len(pieces), name)
            if _made(folder, name, make):
                del waiting[name]
        if waiting and len(waiting) == before:  # another worker is at the rest
            time.sleep(_PAUSE_SECONDS)
    return pa.concat_tables([SCHEMA.empty_table(), *(read_scores(_path(folder, name)) for name in pieces)])


def _made(folder: Path, name: str, make: Piece) -> bool:
    """Whether the piece is there now; made here unless another worker is at it."""
    path = _path(folder, name)
    if path.is_file():
        return True
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            if not path.is_file():
                write_scores(path, table(make()))
    except Timeout:
        return False
    return True


def _path(folder: Path, name: str) -> Path:
    # Names hold models and tasks, which may hold slashes.
    return folder / f"{quote(name, safe=' ')}.parquet"
