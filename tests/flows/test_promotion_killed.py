"""A promotion or rollback that is killed at any point has happened as a whole, or not at all, once anybody looks."""

import multiprocessing
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flows import killed_moves

MOVES = ["promote", "promote again", "rollback"]
# Two points of the announcement and three of the intention come before the alias is moved.
BEFORE_THE_ALIAS, AFTER_THE_ALIAS = 5, 6


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> "Killable":
    workspace = tmp_path_factory.mktemp("workspace")
    shutil.copy(migrated_database, workspace / "mlflow.db")
    return Killable(workspace)


class Killable:
    """A workspace with a registry, at which every call works in a process of its own."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([killed_moves.__name__])
        assert self._in_process(killed_moves.prepare) == 0
        self.kept = [workspace / "mlflow.db", workspace / "ledger.jsonl"]
        for path in self.kept:
            shutil.copy(path, path.with_suffix(".kept"))

    def restore(self) -> None:
        for path in self.kept:
            shutil.copy(path.with_suffix(".kept"), path)
            for rest in path.parent.glob(f"{path.name}-*"):  # SQLite's journal
                rest.unlink()

    def kill(self, move: str, point: int) -> int | None:
        """``None`` if the move was killed, else how many points it has."""
        receiver, sender = self.context.Pipe(duplex=False)
        code = self._in_process(killed_moves.killed, move, point, sender)
        if code == -signal.SIGKILL:
            return None
        assert code == 0
        return int(receiver.recv())

    def follow(self, *moves: str) -> list[killed_moves.State | str]:
        receiver, sender = self.context.Pipe(duplex=False)
        assert self._in_process(killed_moves.followed, list(moves), sender) == 0
        return receiver.recv()  # type: ignore[no-any-return]

    def _in_process(self, function: Callable[..., None], *args: Any) -> int | None:
        process = self.context.Process(target=function, args=(self.workspace, *args))
        process.start()
        process.join(120)
        return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize(("point", "champion"), [(BEFORE_THE_ALIAS, 3), (AFTER_THE_ALIAS, 4)])
def test_a_promotion_killed_beside_the_alias_has_happened_or_not(registry: Killable, point: int, champion: int) -> None:
    """The two points that matter most; the others are soak tests."""
    registry.restore()
    assert registry.kill("promote", point) is None
    killed, settled = registry.follow("settle")
    assert killed[0] == settled[0] == champion
    assert settled[2][-1][1] == champion, "the ledger names it last"


@pytest.mark.slow
@pytest.mark.soak
def test_a_move_killed_at_any_point_has_happened_or_not(registry: Killable) -> None:
    kills = 0
    for move in MOVES:
        registry.restore()
        before, after, then = registry.follow(move, "rollback")
        for point in range(100):
            registry.restore()
            if registry.kill(move, point) is not None:
                break
            kills += 1
            alias, settled, *_ = found = registry.follow("settle", "rollback")
            place = f"{move}, killed at point {point}"
            assert settled == (before if alias[0] == before[0] else after), place
            if settled == after:
                assert found[2] == then, place
            else:
                registry.restore()
                assert registry.kill(move, point) is None
                kills += 1
                assert registry.follow(move, "rollback")[1:] == [after, then], place
    assert kills >= 50


@pytest.mark.slow
@pytest.mark.soak
def test_completing_a_killed_rollback_can_be_killed_as_well(registry: Killable) -> None:
    registry.restore()
    _, after, then = registry.follow("rollback", "rollback")
    registry.restore()
    points = registry.kill("rollback", -1)
    assert points
    for point in range(points):
        registry.restore()
        assert registry.kill("rollback", AFTER_THE_ALIAS) is None
        if registry.kill("settle", point) is not None:
            return
        assert registry.follow("settle", "rollback")[1:] == [after, then], f"killed again at point {point}"
    raise AssertionError("settling had no end")
