"""The table of reruns: an edit to a copy of the source, or an upgrade, against the stages that it makes run again.

Later stages may run as well, if what the first ones write comes out different: an input counts by its content.
"""

import ast
import shutil
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from components.core.identity import Identity
from components.core.packages import installed_version
from components.core.reachability import PROJECT_ROOT
from components.core.run import Run
from conf.schema import ProjectConfig
from tests.core.stages import STAGES

CONFIG = ProjectConfig()
NONE = frozenset[str]()
FINETUNING = {"chat", "classify", "prefer", "distill"}
TRAINING = {"pretrain", "delegate", *FINETUNING}
RUNS_A_MODEL = {
    *TRAINING,
    *("calibrate", "cascade", "converse", "arena", "assess", "evaluate", "bundle", "gate", "smoke"),
    *("reference", "assess-preference", "teach", "write", "choose", "classify-report"),
}
# They read a model's shape, or load its tokenizer by a name that models have too: a key may hold more than is executed.
KNOWS_MODELS = {"derive", "preferences", "classify-texts"}
# ``delegate`` and ``chat`` encode nothing, but look attributes up by names that their source does not spell.
ENCODES = {
    *("prepare", "label", "chats", "delegate", "chat"),
    *KNOWS_MODELS,
    *RUNS_A_MODEL - TRAINING - {"reference", "teach"},
}
READS_SPACY = {"label", "cascade", "evaluate"}
SERVES = {"bundle", "gate", "smoke"}
READS_THE_WORLD = {
    *("prepare", "cascade", "arena", "evaluate", *SERVES),
    *("chats", "converse", "preferences", "classify-report", "write", "choose"),
}

Change = Callable[[Path], None]
Keys = dict[str, str]


def keys(root: Path = PROJECT_ROOT, upgraded: Mapping[str, str] | None = None) -> Keys:
    def version_of(name: str) -> str:
        return (upgraded or {}).get(name) or installed_version(name)

    return {
        name: Identity.of(name, function, section(CONFIG), {}, root=root, version_of=version_of).key
        for name, (function, section) in STAGES.items()
    }


def reruns(before: Keys, after: Keys) -> set[str]:
    return {name for name in STAGES if before[name] != after[name]}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    for package in ("components", "kernels", "conf", "flows"):
        shutil.copytree(PROJECT_ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture(scope="module")
def unedited(copy: Path) -> Keys:
    return keys(copy)


def replaced(old: str, new: str) -> Change:
    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text, f"{path} does not hold {old!r}: give the edit of the table something that is there"
        path.write_text(text.replace(old, new, 1))

    return change


def appended(text: str) -> Change:
    return lambda path: path.write_text(f"{path.read_text()}\n\n{text}\n") and None  # type: ignore[func-returns-value]


def inside(name: str, statement: str = "_edited = 1") -> Change:
    """Adds a statement to the function or class ``name``, after its docstring."""

    def change(path: Path) -> None:
        text = path.read_text()
        (node,) = (each for each in ast.parse(text).body if getattr(each, "name", "") == name)
        assert isinstance(node, ast.FunctionDef | ast.ClassDef)
        place = node.body[ast.get_docstring(node) is not None]
        lines = text.split("\n")
        lines.insert(place.lineno - 1 - len(getattr(place, "decorator_list", [])), " " * place.col_offset + statement)
        path.write_text("\n".join(lines))

    return change


def neutral_field(name: str) -> Change:
    def change(path: Path) -> None:
        assert "import Neutral" in path.read_text(encoding="utf-8"), "the edit declares a field, not an import"
        inside(name, "clip: Annotated[float, Neutral(0.0)] = 0.0")(path)

    return change


@dataclass(frozen=True)
class Edit:
    file: str
    change: Change
    stages: Set[str]


EDITS = {
    "a docstring": Edit("components/training/session.py", inside("Session", '"""Again."""'), NONE),
    "a comment": Edit("kernels/attention/forward.py", appended("# no more"), NONE),
    "layout": Edit("components/pretrain.py", replaced("def stage(", "def stage(\n        "), NONE),
    "a new error class": Edit("components/core/errors.py", appended("class NewError(LacewingError): ..."), NONE),
    "an error that training never raises": Edit(
        "components/core/errors.py",
        inside("ServiceError"),
        {"label", *READS_THE_WORLD},
    ),
    "an unused class in a shared module": Edit("components/data/shards.py", appended("class Unused: ..."), NONE),
    "an unused function in a shared module": Edit("components/model/ops.py", appended("def unused(): ..."), NONE),
    "a new config class in a shared module": Edit(
        "components/training/config.py", appended("class NewConfig(BaseModel):\n    steps: int = 1"), NONE
    ),
    "a new config field with a neutral value": Edit(
        "components/training/config.py", neutral_field("TrainerConfig"), NONE
    ),
    "a new config field without one": Edit(
        "components/training/config.py", inside("TrainerConfig", "clip: float = 0.0"), TRAINING
    ),
    "a field of one stage in a module that many share": Edit(
        "components/evaluation/config.py", inside("GateConfig", "strict: bool = False"), {"gate"}
    ),
    "the slice of another stage": Edit(
        "components/delegation/config.py", inside("CalibrateConfig", "levels: int = 1"), {"calibrate"}
    ),
    "a template of the world": Edit("components/data/world/person.txt", appended("a new line"), READS_THE_WORLD),
    "words of the world": Edit("components/data/world/words.txt", appended("a new line"), READS_THE_WORLD),
    "how the tokenizer is trained": Edit("components/data/tokenizer.py", inside("train_tokenizer"), {"prepare"}),
    "how text is encoded in bulk": Edit(
        "components/data/encoder.py", inside("Encoder"), {"prepare", "derive", "choose"}
    ),
    "how text is encoded": Edit(
        "components/data/tokenizer.py",
        inside("TextTokenizer"),
        ENCODES,
    ),
    "the attention kernel": Edit("kernels/attention/forward.py", inside("_forward"), RUNS_A_MODEL | KNOWS_MODELS),
    "the cross-entropy kernel": Edit("kernels/cross_entropy/linear.py", inside("forward"), RUNS_A_MODEL | KNOWS_MODELS),
    "a benchmark of the kernels": Edit("kernels/bench/timing.py", inside("Stopwatch"), NONE),
    "a space in the table of kernels": Edit("components/model/kernel_choice.json", appended(" "), NONE),
    "the training loader": Edit("components/training/loader.py", inside("TrainingBatches"), TRAINING),
    "the optimizer": Edit("components/training/optimizer.py", inside("learning_rate_factor"), TRAINING),
    "the decision of the gate": Edit("components/evaluation/gate/verdict.py", inside("decide"), {"gate"}),
    "the text of a report": Edit("components/evaluation/report.py", inside("report_markdown"), {"assess"}),
    "the server": Edit("components/deployment/server.py", inside("create_app"), {"smoke"}),
    "the decoding of the server": Edit("components/deployment/engine.py", inside("Engine"), {"smoke"}),
    "how spaCy is asked": Edit("components/labelling/annotators/pipeline.py", inside("Pipeline"), READS_SPACY),
    "a flow": Edit("flows/pretrain.py", appended("X = 1"), NONE),
    "a new flow": Edit("flows/nothing.py", lambda path: path.write_text("def nothing(): ...") and None, NONE),  # type: ignore[func-returns-value]
    "a preset": Edit("conf/trainer/quick.yaml", appended("# no value changed"), NONE),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_makes_exactly_these_stages_run_again(edit: Edit, copy: Path, unedited: Keys) -> None:
    path = copy / edit.file
    before = path.read_bytes() if path.exists() else None
    try:
        edit.change(path)
        assert path.read_bytes() != before
        assert reruns(unedited, keys(copy)) == edit.stages
    finally:
        path.unlink() if before is None else path.write_bytes(before)


UPGRADES = {
    "torch": RUNS_A_MODEL | KNOWS_MODELS,
    "lightning": TRAINING,
    "tokenizers": ENCODES | FINETUNING,
    "spacy": READS_SPACY,
    "matplotlib": {
        *("cascade", "study", "sweep", "compare", "assess", "evaluate"),
        *("converse", "assess-preference", "classify-report"),
    },
    "fastapi": {"smoke"},
    "mlflow": NONE,
    "prefect": NONE,
    "dvc": NONE,
    "hydra-core": NONE,
    "pytest": NONE,
    "transformers": {
        *("cascade", "arena", "evaluate", "converse", "classify-report", "write", "choose"),
        *(*FINETUNING, *SERVES),
    },
}


@pytest.mark.parametrize(("package", "stages"), UPGRADES.items(), ids=UPGRADES)
def test_an_upgrade_makes_exactly_these_stages_run_again(package: str, stages: Set[str], unedited: Keys) -> None:
    assert reruns(unedited, keys(upgraded={package: "999.0"})) == stages


def test_a_rerun_that_writes_the_same_bytes_stops_there(tmp_path: Path) -> None:
    def prepared(name: str, text: str) -> Artifact:
        run = Run.local(tmp_path / name)
        (run.folder / "tokens.bin").write_text(text)
        return run.seal({"seconds": 1.0 if name == "first" else 2.0})

    def key(artifact: Artifact) -> str:
        return Identity.of("pretrain", STAGES["pretrain"][0], CONFIG.pretrain, {"prepared": artifact.content}).key

    assert key(prepared("first", "a")) == key(prepared("again", "a")) != key(prepared("other", "b"))
