"""A release that is killed at any system call leaves one champion that can be loaded, and a ledger that holds.

``LACEWING_RELEASE_KILLS`` says how many of its calls that change something are tried (default 50): half of them spread
evenly over the registration, half over the promotion.
"""

import multiprocessing
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.core.artifact import Artifact
from components.data.tokenizer import save_tokenizer, train_tokenizer
from components.model.checkpoint import save_model
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from tests.deployment.conftest import SENTENCES, VOCAB_SIZE
from tests.end_to_end.test_loopback import strace_works
from tests.fakes import SPECIAL
from tests.flows import killed_releases
from tests.flows.conftest import MakeArtifact

pytestmark = [
    pytest.mark.slow,
    pytest.mark.soak,
    pytest.mark.timeout(0),
    pytest.mark.skipif(not strace_works(), reason="needs Debian's strace, and the right to trace"),
]

KILLS = int(os.environ.get("LACEWING_RELEASE_KILLS", "50"))
SHAPE = ModelConfig(layers=1, width=32, hidden_width=32, heads=2, kv_heads=1, context_length=32)
# Only taken and given back; between two of them, something is changed.
LOCKS = ("fcntl", "flock")
Call = tuple[str, int]
"""Name of a system call, and how many of that name there were up to it."""


class Workspace:
    """A registry with one champion, put back before each kill; every call works in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kept, self.log = folder, folder.with_name("kept"), folder.with_name("strace.log")
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([killed_releases.__name__])

    def keep(self) -> None:
        shutil.copytree(self.folder, self.kept, symlinks=True)

    def restore(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self.kept, self.folder, symlinks=True)

    def release(self, bundle: Artifact, kill: Call | None = None) -> int | None:
        return self._in_process(killed_releases.release, bundle.folder, self.log, kill)

    def points(self) -> tuple[list[Call], list[Call]]:
        """The calls of the last release that change something, while it registered and while it promoted."""
        seen: Counter[str] = Counter()
        before: list[Call] = []
        after: list[Call] = []
        now = before
        for line in self.log.read_text().splitlines():
            name = line.partition("(")[0]
            seen[name] += 1
            if killed_releases.MARK in line:
                now = after
            elif name not in LOCKS and "(" in line:
                now.append((name, seen[name]))
        return before, after

    def examine(self) -> killed_releases.Found:
        return self._asked(killed_releases.examine)  # type: ignore[no-any-return]

    def repeat(self, bundle: Artifact) -> list[killed_releases.Found]:
        return self._asked(killed_releases.repeat, bundle.folder)  # type: ignore[no-any-return]

    def _asked(self, function: Callable[..., None], *args: Any) -> Any:
        receiver, sender = self.context.Pipe(duplex=False)
        assert self._in_process(function, *args, sender) == 0
        return receiver.recv()

    def _in_process(self, function: Callable[..., None], *args: Any) -> int | None:
        process = self.context.Process(target=function, args=(self.folder, *args))
        process.start()
        process.join(300)
        return process.exitcode


@pytest.fixture
def bundles(make_artifact: MakeArtifact, data: Artifact, tmp_path: Path) -> list[Artifact]:
    """Two real models in sealed bundles."""
    tokenizer = train_tokenizer(SENTENCES * 4, VOCAB_SIZE)
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        folder = tmp_path / f"model-{seed}"
        save_tokenizer(tokenizer, folder)
        save_model(Transformer(SHAPE, VOCAB_SIZE), folder, SPECIAL)
        files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"manifest.json": "{}"}
        facts = {"name": "tiny", "description": "a tiny model", "tags": {"bits_per_byte": "1.250000"}}
        made.append(make_artifact("bundle", files, {"loss": 1.0}, {"prepared": data.content}, {"seed": seed}, 0, facts))
    return made


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("part", ["registration", "promotion"])
def test_a_release_killed_at_any_call_leaves_one_champion(part: str, bundles: list[Artifact], workspace: Path) -> None:
    first, second = bundles
    place = Workspace(workspace)
    assert place.release(first) == 0
    place.keep()
    before = place.examine()
    after, back = place.repeat(second)
    place.restore()
    assert place.release(second) == 0
    points = dict(zip(("registration", "promotion"), place.points(), strict=True))[part]
    assert len(points) > KILLS, "the release was traced"
    found: Counter[str] = Counter()
    for number, kill in enumerate(_spread(points, KILLS // 2), 1):
        place.restore()
        code = place.release(second, kill)
        if code == 0:  # the number of calls differs a little from one time to the next
            found["came through"] += 1
            continue
        assert code == -signal.SIGKILL
        left = place.examine()
        where = f"kill {number} of {KILLS // 2} in the {part}, at {kill}"
        assert left.seen == left.settled[0], where
        # Where it has not happened, the second model may have been registered, or not even that.
        assert left.settled[2] == (before if left.seen == before.seen else after).settled[2], where
        assert left.seen != after.seen or left.settled == after.settled, where
        found["the new champion" if left.seen == after.seen else "the old one"] += 1
        assert place.repeat(second) == [after, back], where
        print(where, dict(found), flush=True)
    assert found["came through"] <= KILLS // 20


def _spread(points: list[Call], count: int) -> list[Call]:
    return [points[number * len(points) // count] for number in range(count)]
