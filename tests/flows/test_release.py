"""The gate and the promotion are one step, also where two pipelines release at the same moment."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from components.core.run import Run
from conf.schema import ProjectConfig
from flows.delegate import Delegated
from flows.promotion import Registry
from flows.release import JUDGEMENTS, release_model
from flows.run import FlowRun, Outcome, Release, StageCall

pytestmark = pytest.mark.usefixtures("database")

SCORE = "assessment.bits_per_byte"


class Judge:
    """A ``StageRunner`` whose gate compares the recorded scores: what is tested is what the flow makes of them."""

    def __init__(self, bundle: Artifact, folder: Path, after_gate: Callable[[int], None] = lambda times: None) -> None:
        self.bundle = bundle
        self.folder = folder
        self.after_gate = after_gate
        self.champions: list[str] = []

    def bring_up_to_date(self, call: StageCall) -> Outcome:
        artifact = self.bundle
        if call.stage.name == "gate":
            artifact = self._gate(call.inputs["bundle"], call.inputs.get("champion"))
            self.after_gate(len(self.champions))
        return Outcome(artifact, "ran", "for the test", 0)

    def _gate(self, bundle: Artifact, champion: Artifact | None) -> Artifact:
        self.champions.append(champion.key if champion else "")
        better = champion is None or bundle.metrics[SCORE] < champion.metrics[SCORE]
        run = Run.local(self.folder / str(len(self.champions)))
        return run.seal({}, {"outcome": "promote" if better else "hold", "reason": "better" if better else "worse"})


def release(judge: Judge) -> Release:
    run = FlowRun("release", "world", [], ProjectConfig(), judge)
    any_artifact = judge.bundle
    delegated = Delegated(any_artifact, any_artifact, None, any_artifact, any_artifact)
    release_model(run, any_artifact, delegated, any_artifact)
    assert run.release is not None
    return run.release


@pytest.fixture
def make_scored(make_artifact: Callable[..., Artifact]) -> Callable[[float], Artifact]:
    def make(bits_per_byte: float) -> Artifact:
        return make_artifact("bundle", {"model.safetensors": str(bits_per_byte)}, metrics={SCORE: bits_per_byte})

    return make


def test_a_model_is_judged_again_if_another_process_promotes_meanwhile(
    make_scored: Callable[[float], Artifact], tmp_path: Path
) -> None:
    champion, good, fair = (make_scored(score) for score in (1.30, 1.20, 1.25))
    assert release(Judge(champion, tmp_path / "gate")).promoted
    context = multiprocessing.get_context("spawn")
    fair_is_judged, good_is_champion = context.Event(), context.Event()
    args = (good.folder, tmp_path / "other", fair_is_judged, good_is_champion)
    other = context.Process(target=_release_when, args=args)
    other.start()

    def let_the_other_overtake(times: int) -> None:
        fair_is_judged.set()
        assert good_is_champion.wait(120)

    judge = Judge(fair, tmp_path / "ours", let_the_other_overtake)
    outcome = release(judge)
    other.join(120)
    assert other.exitcode == 0
    assert judge.champions == [champion.key, good.key]
    assert (outcome.promoted, outcome.reason) == (False, "worse")
    registry = Registry(ProjectConfig().tracking)
    now = registry.champion()
    assert now is not None
    assert now.key == good.key
    assert [(move.version, move.previous) for move in registry.ledger.changes()] == [(1, 0), (2, 1)]


def _release_when(bundle: Path, folder: Path, start: Event, done: Event) -> None:
    def wait(times: int) -> None:
        assert start.wait(120)

    assert release(Judge(Artifact.open(bundle), folder, wait)).promoted
    done.set()


def test_a_model_is_refused_if_the_champion_never_stands_still(
    make_scored: Callable[[float], Artifact], tmp_path: Path
) -> None:
    registry = Registry(ProjectConfig().tracking)
    others = [registry.register(make_scored(score)).number for score in (1.4, 1.3)]

    def move(times: int) -> None:
        registry.promote(others[times % 2], "by hand")

    judge = Judge(make_scored(1.2), tmp_path / "gate", move)
    outcome = release(judge)
    assert len(judge.champions) == JUDGEMENTS
    assert not outcome.promoted
    assert "run `lacewing release` again" in outcome.reason
    assert registry.ledger.entries()[-1].action == "hold"
    assert registry.ledger_fault() is None


@pytest.mark.parametrize("first", [True, False])
def test_a_model_that_is_judged_against_the_champion_of_now_is_judged_once(
    make_scored: Callable[[float], Artifact], tmp_path: Path, first: bool
) -> None:
    if not first:
        assert release(Judge(make_scored(1.3), tmp_path / "first")).promoted
    judge = Judge(make_scored(1.2), tmp_path / "gate")
    assert release(judge).promoted
    assert len(judge.champions) == 1
    assert release(judge).reason == "it is the champion already"
    assert len(judge.champions) == 1
