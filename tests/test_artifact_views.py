"""Typed views of artifacts: each opens what its stages made, is light to import, and alone spells the paths inside."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

from components.cascade.calibration import Calibration
from components.core.artifact import RECORD, REPORT, Artifact
from components.core.errors import ArtifactError
from components.core.run import Run
from components.data.chats.artifact import Chats
from components.data.prepared import PreparedData
from components.data.world import files as world
from components.deployment.artifact import SmokeAnswer
from components.evaluation.arena.artifact import Arena
from components.evaluation.artifacts import Evaluation, GateDecision, Scores
from components.evaluation.comparison.artifact import Comparison
from components.evaluation.factuality.artifacts import CascadeAssessment, Study
from components.evaluation.sweep.artifact import Sweep
from components.finetune.chat.artifact import Conversed
from components.finetune.classify.artifacts import Classification, Classifier, LabelledTexts
from components.finetune.distill.artifact import ChosenTexts, TeacherTexts, Teaching
from components.finetune.preference.artifact import Pairs, PreferenceAssessment, References
from components.labelling.artifact import Labels
from components.model.bundle import Bundle
from components.training.trained import TrainedModel
from tests.conftest import ROOT

VIEWS: list[type[Artifact]] = [
    PreparedData,
    Labels,
    TrainedModel,
    Calibration,
    Scores,
    CascadeAssessment,
    Study,
    Sweep,
    Comparison,
    Arena,
    GateDecision,
    Evaluation,
    LabelledTexts,
    Classifier,
    Classification,
    Bundle,
    Pairs,
    References,
    PreferenceAssessment,
    Teaching,
    TeacherTexts,
    ChosenTexts,
    SmokeAnswer,
    Conversed,
]
STAGES = {
    "prepare",
    "chats",
    "chat",
    "converse",
    "label",
    "pretrain",
    "delegate",
    "derive",
    "prefer",
    "calibrate",
    "assess",
    "cascade",
    "study",
    "sweep",
    "compare",
    "arena",
    "gate",
    "evaluate",
    "classify-texts",
    "classify",
    "classify-report",
    "bundle",
    "smoke",
    "preferences",
    "reference",
    "assess-preference",
    "teach",
    "write",
    "choose",
    "distill",
}

# Modules that say what a path is called: the views, and the one that names the files of a closed world.
SPELLING = {view.__module__ for view in [*VIEWS, Chats]} | {world.__name__, "components.core.artifact"}
# Their artifacts are made up: they hold what the test is about, whatever a real stage would have called it.
MADE_UP = ("tests/core", "tests/flows")


def test_every_stage_has_exactly_one_view() -> None:
    assert sorted(stage for view in VIEWS for stage in view.stages) == sorted(STAGES)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_a_view_opens_the_artifacts_of_its_stages_and_no_others(view: type[Artifact], tmp_path: Path) -> None:
    for stage in STAGES:
        sealed = Run.local(tmp_path / stage, stage).seal({})
        if stage in view.stages:
            assert type(view.open(sealed.folder)) is view
        else:
            with pytest.raises(ArtifactError, match=f"made by the stage '{stage}' .* as {view.__name__}: give"):
                view.open(sealed.folder)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_a_damaged_record_is_refused(view: type[Artifact], tmp_path: Path) -> None:
    Run.local(tmp_path, view.stages[0]).seal({})
    (tmp_path / RECORD).write_text("{}")
    with pytest.raises(ArtifactError, match="cannot be read as an artifact record"):
        view.open(tmp_path)


def test_views_are_imported_without_numpy_or_torch() -> None:
    """The flow's process imports them all."""
    modules = ", ".join(sorted({view.__module__ for view in VIEWS}))
    program = f"import sys, {modules}; print(sorted({{'numpy', 'torch', 'lightning', 'fastapi'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TextNode(ast.expr):
    """A literal in quotes, as the checker of types sees it."""

    value: str


def names() -> set[str]:
    """What the views call the files and folders inside their artifacts."""
    spelt = {value for view in [*VIEWS, Chats] for name, value in vars(view).items() if name.isupper()}
    return {*spelt, world.WORLD_FOLDER, world.DOCUMENTS, world.FACTS, world.QUESTIONS, REPORT}


def modules() -> Iterator[tuple[str, Path]]:
    for top in ("components", "flows", "benchmarks", "tests"):
        for path in sorted((ROOT / top).rglob("*.py")):
            place = path.relative_to(ROOT).with_suffix("")
            if place.as_posix().startswith(MADE_UP) or ".".join(place.parts) in SPELLING:
                continue
            yield place.as_posix(), path


def spelt_paths(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """String literals that are joined to the folder of an artifact or looked up in it, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and is_text(node.right):
            if is_folder(node.left):
                yield node.lineno, node.right.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "path":
            yield from ((node.lineno, each.value) for each in node.args if is_text(each))


def is_text(node: ast.AST) -> TypeGuard[TextNode]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_folder(node: ast.expr) -> bool:
    """Whether this is ``folder``, ``something.folder``, or a place below one of them."""
    while isinstance(node, ast.BinOp):
        node = node.left
    return "folder" in (getattr(node, "attr", ""), getattr(node, "id", ""))


def file_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """All other string literals that are the name of a file; documentation is none."""
    bare = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if is_text(node) and node not in bare and "." in node.value and " " not in node.value:
            yield node.lineno, node.value


def test_the_check_finds_a_path_that_is_spelt() -> None:
    """Otherwise the test below could pass because it looks at nothing."""
    spelt = 'a = run.folder / "model"\nb = prepared.path("shards")\nc = folder / "raw" / name\nNAME = "history.jsonl"\n'
    tree = ast.parse(spelt)
    assert {text for _, text in spelt_paths(tree)} == {"model", "shards", "raw"}
    assert {text for _, text in file_names(tree)} == {"history.jsonl"}
    assert {"model", "shards", "raw", "history.jsonl"} < names()


def test_no_path_inside_an_artifact_is_spelt_outside_its_view() -> None:
    known = names()
    found = []
    for place, path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        literals = [*spelt_paths(tree), *([] if place.startswith("tests") else file_names(tree))]
        found += [f"{place}:{line} {text!r}" for line, text in literals if known & {text, *text.split("/")}]
    assert found == []
