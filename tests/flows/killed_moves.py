"""Moves of the champion in processes that kill themselves on the way; imported by their fork server."""

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - loaded once, before the processes part

from components.core.errors import InputError
from conf.services import TrackingConfig
from flows.promotion import CHAMPION, RECEIPT, Registry

MOVES: dict[str, Callable[[Registry], Any]] = {
    "promote": lambda registry: registry.promote(4, "better", by="alice"),
    "promote again": lambda registry: registry.promote(5, "fine", by="bob", allow_rolled_back=True),
    "rollback": lambda registry: registry.rollback("it lies", by="carol"),
    "settle": lambda registry: registry.rolled_back("anything"),
}
State = tuple[int, list[tuple[int, dict[str, str]]], list[tuple[object, ...]]]


def state(registry: Registry) -> State:
    """The champion, the tags of all versions and the moves of the ledger; of times and receipts, only that they are."""
    champion = registry.version(CHAMPION)
    tags = [
        (
            each.number,
            {
                name: value if "_at" not in name and name not in ("lacewing.rolled_back", RECEIPT) else ""
                for name, value in each.tags.items()
            },
        )
        for each in registry.versions()
    ]
    moves = [(m.action, m.version, m.previous, m.by, m.reason) for m in registry.ledger.changes()]
    return (champion.number if champion else 0), tags, moves


def prepare(workspace: Path) -> None:
    """Five versions: three champions one after the other, a challenger, and one that was rolled back."""
    registry = _registry(workspace)
    client = registry.connection.client
    client.create_registered_model(registry.name)
    for number in range(1, 6):
        tags = {"lacewing.key": f"{number:032x}"}
        client.create_model_version(registry.name, source=str(workspace / str(number)), tags=tags)
    for number in (1, 2, 5):
        registry.promote(number, "good", by="alice")
    registry.rollback("bad", by="alice")
    registry.promote(3, "good", by="alice")


def killed(workspace: Path, name: str, point: int, answer: Connection) -> None:
    """Make the move called ``name`` and die at ``point``; who survives sends how many points there were."""
    registry = _registry(workspace)
    fatal = _Fatal(point)
    fatal.strike(registry.connection.client, "create_model_version")
    fatal.strike(registry.connection.client, "set_registered_model_alias")
    fatal.strike(registry.connection.client, "set_model_version_tag")
    fatal.strike(registry.connection.client, "delete_model_version_tag")
    fatal.strike(registry.ledger, "append", half=registry.ledger.path)
    MOVES[name](registry)
    answer.send(fatal.passed)


def followed(workspace: Path, names: list[str], answer: Connection) -> None:
    """Make the moves called ``names``; sends the state before the first and after each, or the words of a refusal."""
    registry = _registry(workspace)
    states: list[State | str] = [state(registry)]
    for name in names:
        try:
            MOVES[name](registry)
            states.append(state(registry))
        except InputError as error:
            states.append(str(error))
    assert registry.ledger_fault() is None
    answer.send(states)


def _registry(workspace: Path) -> Registry:
    os.environ["LACEWING_WORKSPACE"] = str(workspace)
    return Registry(TrackingConfig())


class _Fatal:
    """Counts the points at which a process may die, and kills this one at the point that it was given."""

    def __init__(self, point: int) -> None:
        self.point = point
        self.passed = 0

    def strike(self, owner: object, method: str, half: Path | None = None) -> None:
        """Before the method of ``owner`` and after it; of a line that goes to the file ``half``, also in its middle."""
        original = getattr(owner, method)

        def struck(*args: Any, **kwargs: Any) -> Any:
            self._pass()
            if half is not None:
                self._pass(lambda: half.open("a").write(args[0].model_dump_json()[:40]))
            result = original(*args, **kwargs)
            self._pass()
            return result

        setattr(owner, method, struck)

    def _pass(self, last_words: Callable[[], object] = lambda: None) -> None:
        if self.passed == self.point:
            last_words()
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed += 1
