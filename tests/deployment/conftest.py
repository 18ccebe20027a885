"""A tiny model, bundled by the real stage, and the real server process for it: alone, and as a cascade."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import torch

from components.cascade.calibration import LEVELS, Calibration, CallCalibration
from components.cascade.config import CascadeConfig
from components.core.artifact import REPORT
from components.core.atomic import write_text
from components.core.run import Run
from components.data import prepare
from components.data.config import DataConfig
from components.data.prepared import PreparedData
from components.data.tokenizer import save_tokenizer, train_tokenizer
from components.data.world.config import WorldConfig
from components.delegation.config import DETAILS
from components.deployment import bundle as bundle_stage
from components.deployment.config import BundleStageConfig
from components.deployment.engine import Engine
from components.deployment.smoke import server as server_process
from components.evaluation.artifacts import Scores
from components.evaluation.factuality.artifacts import CascadeAssessment
from components.model.bundle import Bundle
from components.model.checkpoint import save_model
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.trained import TrainedModel
from tests.fakes import SPECIAL

VOCAB_SIZE = 384
CONTEXT_LENGTH = 4096
# Many scripts, so that some tokens are whole characters, some several, and some only a part of one.
SENTENCES = [
    "The history of the harbour begins with the lighthouse that Ada Quill designed in 1871.",
    "She was born in Brackwater, moved to Ostrava and wrote three letters about the lighthouse.",
    "Größe, Übermut und Straßen: die Brücke über den Fluß wurde 1902 gebaut.",
    "東京の歴史は長い。東京の港は古い。",
    "🙂🙃🚀 emoji are four bytes each 🚀🙂",
]


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine the threads of a tiny model only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def counts(usage: dict[str, Any]) -> dict[str, Any]:
    """``usage`` without the energy, which some machines count and which is never the same twice."""
    return {name: value for name, value in usage.items() if name != "joules"}


class Stages(NamedTuple):
    """What a plain model is bundled from."""

    delegated: TrainedModel
    prepared: PreparedData
    assessment: Scores


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """Pretrain, prepare and assess artifacts with the files that a bundle is made of."""
    root = tmp_path_factory.mktemp("stages")
    prepare, pretrain, assess = (Run.local(root / name, name) for name in ("prepare", "pretrain", "assess"))
    tokenizer = train_tokenizer(SENTENCES * 4, VOCAB_SIZE)
    for folder in (prepare.folder / PreparedData.TOKENIZER, pretrain.folder / TrainedModel.MODEL):
        save_tokenizer(tokenizer, folder)
    write_text(prepare.folder / PreparedData.RAW / "sentences.txt", "\n".join(SENTENCES))
    save_model(_model(VOCAB_SIZE), pretrain.folder / TrainedModel.MODEL, SPECIAL)
    write_text(assess.folder / REPORT, "# Report\n")
    return Stages(
        pretrain.seal({"tokens": 1000.0, "loss": 5.5}, view=TrainedModel),
        prepare.seal({}, {"sources": ["sentences"], "vocab_size": VOCAB_SIZE}, view=PreparedData),
        assess.seal({"bits_per_byte": 3.25}, view=Scores),
    )


def _model(vocab_size: int) -> Transformer:
    """Random weights, large enough to have opinions; special tokens get logit 0, so greedy text goes on and on."""
    torch.manual_seed(3)
    shape = ModelConfig(
        name="tiny", layers=2, width=32, hidden_width=64, heads=4, kv_heads=2, context_length=CONTEXT_LENGTH
    )
    model = Transformer(shape, vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(20.0)
        model.embedding.weight[:5] = 0.0
    return model


@pytest.fixture(scope="session")
def bundle(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The sealed bundle of the tiny model."""
    run = Run.local(tmp_path_factory.mktemp("bundle"), "bundle")
    return bundle_stage.stage(run, BundleStageConfig(name="tiny", presence_penalty=0.0), **stages._asdict())


@pytest.fixture(scope="session")
def engine(bundle: Bundle) -> Iterator[Engine]:
    """An engine in this process."""
    with Engine(bundle.folder, threads=1) as engine:
        yield engine


@pytest.fixture(scope="session")
def client(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """HTTP client of the real server process, which takes 4 prompts at once and lets 4 wait."""
    log: Path = tmp_path_factory.mktemp("server") / "server.log"
    options = ["--name", "tiny", "--threads", "1", "--max-concurrent-requests", "4", "--max-queued-requests", "4"]
    with (
        server_process(bundle.folder, log, 120.0, options) as url,
        httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client,
    ):
        yield client


class Delegated(NamedTuple):
    """Inputs of a cascade's bundle: a tiny model of a small closed world, calibrated so that it calls where it may."""

    delegated: TrainedModel
    prepared: PreparedData
    assessment: Scores
    calibration: Calibration
    cascade: CascadeAssessment

    def bundle(self, folder: Path, **cascade: object) -> Bundle:
        """Bundled with these settings of the cascade."""
        cfg = BundleStageConfig(name="asking", presence_penalty=0.0, cascade=CascadeConfig.model_validate(cascade))
        return bundle_stage.stage(Run.local(folder, "bundle"), cfg, **self._asdict())


@pytest.fixture(scope="session")
def delegated(tmp_path_factory: pytest.TempPathFactory) -> Delegated:
    root = tmp_path_factory.mktemp("delegated")
    data = DataConfig(sources=["world"], vocab_size=512, world=WorldConfig(entities=60))
    prepared = prepare.stage(Run.local(root / "prepare", "prepare"), data)
    model = Run.local(root / "delegate", "delegate")
    tokenizer = prepared.tokenizer()
    save_tokenizer(tokenizer._tokenizer, model.folder / TrainedModel.MODEL)
    save_model(_model(tokenizer.vocab_size), model.folder / TrainedModel.MODEL, tokenizer.special)
    calibrated = Run.local(root / "calibrate", "calibrate")
    never = [0.0] * LEVELS  # any score is above all that calibration saw
    CallCalibration(quantiles=never, tokens=100, factual=True, post_hoc={"entropy": never}).save(
        calibrated.folder / Calibration.RECORD
    )
    return Delegated(
        model.seal({"tokens": 10.0, "loss": 5.0}, {DETAILS: {"selection": "lacy"}}, view=TrainedModel),
        prepared,
        Run.local(root / "assess", "assess").seal({"bits_per_byte": 3.0}, view=Scores),
        calibrated.seal({}, view=Calibration),
        Run.local(root / "cascade", "cascade").seal({"precision_cascade": 0.75}, view=CascadeAssessment),
    )


@pytest.fixture(scope="session")
def asking(delegated: Delegated, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The sealed bundle of the tiny model that asks the fact table."""
    return delegated.bundle(tmp_path_factory.mktemp("asking"), budget=0.5)


@dataclass(frozen=True)
class Fact:
    """The beginning of a true sentence, and the word that makes it true."""

    prompt: str
    value: str


@pytest.fixture(scope="session")
def fact(delegated: Delegated) -> Fact:
    assert delegated.prepared.fact_table is not None
    facts = map(json.loads, delegated.prepared.fact_table.read_text().splitlines())
    river = next(fact for fact in facts if fact["relation"] == "river")
    return Fact(f"{river['subject']} stands on the river", f" {river['value']}")
