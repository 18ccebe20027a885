"""The stage ``delegate`` as a whole: what it leaves, what it counts, where it starts, how it goes on."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Bool
from safetensors.torch import load_file

from components.cascade.config import HelperConfig
from components.core.errors import ArtifactError, InputError
from components.core.identity import Identity
from components.core.run import Run
from components.core.worker import Request, write_request
from components.data.prepared import PreparedData
from components.data.shards import Split
from components.data.world.files import FACTS, WORLD_FOLDER
from components.delegation.auxiliary_models import FactTable, FrozenModel
from components.delegation.columns import FACTUAL, JUDGED
from components.delegation.config import DelegateConfig, DelegationConfig
from components.delegation.evidence import statistics
from components.delegation.metrics import overlap
from components.delegation.train import stage
from components.labelling.artifact import Labels
from components.model.checkpoint import WEIGHTS, load_model
from components.model.config import ModelConfig
from components.pretrain import stage as pretrain
from components.training.checkpoints import StoppedError
from components.training.config import PretrainConfig, TrainerConfig
from components.training.loader import Batch, ValidationBatches
from components.training.threads import set_threads
from components.training.trained import TrainedModel
from tests.fakes import SPECIAL
from tests.labels import labelled
from tests.trained import stopping_after
from tests.training.conftest import prepare

pytestmark = pytest.mark.usefixtures("quick_peak")

MODEL = ModelConfig(name="tiny", layers=1, width=32, hidden_width=64, heads=4, kv_heads=2, context_length=32)
TOKENS_PER_STEP = 8 * 32


def trainer(**changes: object) -> TrainerConfig:
    values: dict[str, object] = {
        "max_steps": 20,
        "batch_size": 8,
        "micro_batch_size": 4,
        "optimizer": "adamw",
        "minimum_learning_rate_fraction": 0.1,
        "learning_rate": 1e-2,
        "precision": "32-true",
        "threads": 1,
        "log_every_steps": 5,
        "validate_every_steps": 8,
        "validation_batches": 4,
        "checkpoint_every_steps": 6,
    }
    return TrainerConfig.model_validate({**values, **changes})


def config(
    loop: dict[str, object] | None = None, helper: HelperConfig | None = None, **delegation: object
) -> DelegateConfig:
    chosen = DelegationConfig.model_validate({"start": "scratch", "warmup_fraction": 0.1, **delegation})
    return DelegateConfig(
        model=MODEL, trainer=trainer(**(loop or {})), delegation=chosen, helper=helper or HelperConfig()
    )


def label(prepared: PreparedData, folder: Path, share: float, judged: bool = True) -> Labels:
    """A sealed label artifact: whole words, drawn at random, are facts, boundaries never."""
    boundary = prepared.shards().boundary_id

    def facts(split: Split) -> Bool[np.ndarray, " tokens"]:
        tokens = split.slice(0, split.n_tokens)
        return (tokens.astype(np.int64) * 7919 % 1000 < share * 1000) & (tokens != boundary)

    def values(split: Split) -> Bool[np.ndarray, " tokens"]:
        return facts(split) & (split.slice(0, split.n_tokens) % 2 == 0)

    return labelled(folder, prepared, facts, values if judged else None, annotator="world")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def labels(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Labels:
    return label(prepared, tmp_path_factory.mktemp("labels"), share=0.3)


@pytest.fixture(scope="module")
def pretrained(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    cfg = PretrainConfig(model=MODEL, trainer=trainer(max_steps=30))
    return pretrain(Run.local(tmp_path_factory.mktemp("pretrained"), "pretrain"), cfg, prepared=prepared)


def weights(artifact: TrainedModel) -> dict[str, torch.Tensor]:
    return load_file(artifact.model_folder / WEIGHTS)


def test_a_run_leaves_what_pretraining_leaves_and_says_what_it_delegates(
    prepared: PreparedData, labels: Labels, pretrained: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = stage(Run.local(tmp_path / "run"), config({"max_steps": 40}), prepared=prepared, labels=labels).verify()
    assert "delegate:" in capsys.readouterr().err

    assert {path.name for path in artifact.model_folder.iterdir()} == {
        path.name for path in pretrained.model_folder.iterdir()
    }
    assert load_model(artifact.model_folder).config == MODEL
    metrics = artifact.metrics
    assert set(metrics) >= set(pretrained.metrics)
    assert artifact.details["delegation"]["selection"] == "lacy"

    # Counters: 15 % of every forward pass of 128 tokens after the warm-up of four steps, exactly.
    delegated = round(0.15 * 128) * 2 * (40 - 4)
    assert metrics["tokens_forward"] == metrics["tokens"] == 40 * TOKENS_PER_STEP
    assert metrics["tokens_call_grad"] == delegated
    assert metrics["tokens_gt_grad"] == 40 * TOKENS_PER_STEP - delegated

    rows = artifact.history()
    trained = [row for row in rows if "loss" in row]
    assert [row["step"] for row in trained] == [5, 10, 15, 20, 25, 30, 35, 40]
    forward = [row["tokens_forward"] for row in trained]
    assert forward == [step * TOKENS_PER_STEP for step in (5, 10, 15, 20, 25, 30, 35, 40)]
    last = trained[-1]
    assert last["call_delegated"] > 2 * max(last["call_factual_kept"], last["call_non_factual"]) > 0
    assert last["auroc_delegated"] > 0.75
    looks = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in looks] == [8, 16, 24, 32, 40]
    assert "delegated_overlap" not in looks[0]
    assert 0 < looks[-1]["delegated_overlap"] <= 1
    assert looks[-1]["delegated_loss"] > looks[-1]["validation_loss_kept"]
    assert metrics["auroc_delegated"] == looks[-1]["auroc_delegated"]
    assert metrics["validation_loss_factual"] != metrics["validation_loss_non_factual"]


def test_the_validation_loss_is_that_of_the_saved_model_without_call(
    prepared: PreparedData, labels: Labels, tmp_path: Path
) -> None:
    artifact = stage(
        Run.local(tmp_path / "run"), config({"validation_batches": 1000}), prepared=prepared, labels=labels
    )
    shards = prepared.shards()
    bits = {FACTUAL: labels.facts(prepared)}
    model = load_model(artifact.model_folder)
    sums = {True: [0.0, 0], False: [0.0, 0]}
    for batch in ValidationBatches(shards.splits["validation"], 32, shards.boundary_id, 4, 1000, columns=bits):
        scores = model.logits(model(batch.tokens, batch.document_start)).flatten(0, 1)
        scores[:, SPECIAL.call] = -math.inf
        nats = torch.nn.functional.cross_entropy(scores, batch.targets.flatten(), reduction="none")
        for factual in (True, False):
            rows = (batch.columns[FACTUAL].flatten() == factual) & (batch.targets.flatten() >= 0)
            sums[factual][0] += nats[rows].sum().item()
            sums[factual][1] += int(rows.sum())
    metrics = artifact.metrics
    assert metrics["validation_loss_factual"] == pytest.approx(sums[True][0] / sums[True][1], rel=1e-4)
    assert metrics["validation_loss_non_factual"] == pytest.approx(sums[False][0] / sums[False][1], rel=1e-4)
    both = (sums[True][0] + sums[False][0]) / (sums[True][1] + sums[False][1])
    assert metrics["validation_loss"] == pytest.approx(both, rel=1e-4)


@pytest.mark.parametrize("selection", ["lacy", "random"])
def test_stopped_and_resumed_weights_counters_and_history_are_those_of_an_uninterrupted_run(
    prepared: PreparedData, labels: Labels, tmp_path: Path, selection: str
) -> None:
    cfg = config({"log_every_steps": 1}, selection=selection)
    whole = stage(Run.local(tmp_path / "whole"), cfg, prepared=prepared, labels=labels)

    with stopping_after(13), pytest.raises(StoppedError, match="after step 13 of 20"):
        stage(Run.local(tmp_path / "stopped"), cfg, prepared=prepared, labels=labels)
    resumed = stage(Run.local(tmp_path / "stopped"), cfg, prepared=prepared, labels=labels)

    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    timing = {"seconds", "tokens_per_second", "mfu", "flops_per_second_peak"}
    assert {k: v for k, v in whole.metrics.items() if k not in timing} == {
        k: v for k, v in resumed.metrics.items() if k not in timing
    }
    assert whole.history() == resumed.history()
    assert whole.content == resumed.content, "an equal model is an equal artifact, however long it took"


def test_continued_training_starts_from_the_pretrained_weights_with_its_own_length_and_rate(
    prepared: PreparedData, labels: Labels, pretrained: TrainedModel, tmp_path: Path
) -> None:
    cfg = config(start="checkpoint", max_steps=6, learning_rate=1e-9)
    artifact = stage(Run.local(tmp_path / "run"), cfg, prepared=prepared, labels=labels, pretrained=pretrained)
    assert artifact.metrics["steps"] == 6
    before, after = weights(pretrained), weights(artifact)
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-6, rtol=1e-6)
    rows = artifact.history()
    assert next(row["learning_rate"] for row in rows if "loss" in row) <= 1e-9


@pytest.mark.parametrize(
    ("selection", "budget"), [("lacy", 0.15), ("loss", 0.4), ("ignore_facts", 0.15), ("defer", 0.15), ("ntp", 0.15)]
)
def test_matched_on_gradient_tokens_a_run_teaches_as_many_as_plain_training(
    prepared: PreparedData, labels: Labels, tmp_path: Path, selection: str, budget: float
) -> None:
    world = prepared.folder / PreparedData.RAW / WORLD_FOLDER
    world.mkdir(parents=True, exist_ok=True)
    (world / FACTS).touch()
    cfg = config(selection=selection, budget=budget, match="gradient_tokens", warmup_fraction=0.1)
    metrics = stage(Run.local(tmp_path / "run"), cfg, prepared=prepared, labels=labels).metrics
    wanted = 20 * TOKENS_PER_STEP
    # One step of rounding up, and the warm-up is whole steps.
    assert wanted - 0.5 * TOKENS_PER_STEP <= metrics["tokens_gt_grad"] <= wanted + 1.5 * TOKENS_PER_STEP
    longer = selection not in ("defer", "ntp")
    assert (metrics["steps"] > 20) == longer
    assert (metrics["tokens_call_grad"] > 0) == (selection in ("lacy", "loss", "defer"))


@pytest.mark.parametrize("selection", ["rho_call", "rho_ignore", "judge", "helper_gain", "defer"])
def test_selections_that_use_other_models_train(
    prepared: PreparedData, labels: Labels, pretrained: TrainedModel, tmp_path: Path, selection: str
) -> None:
    helper = HelperConfig(kind="model", model=str(pretrained.folder))
    cfg = config(helper=helper, selection=selection, start="checkpoint", max_steps=4, warmup_fraction=0.0)
    metrics = stage(Run.local(tmp_path / "run"), cfg, prepared=prepared, labels=labels, pretrained=pretrained).metrics
    budget = 4 * 2 * round(0.15 * 128)
    if selection in ("rho_call", "judge"):
        assert metrics["tokens_call_grad"] == budget
    elif selection == "rho_ignore":
        assert (metrics["tokens_call_grad"], metrics["tokens_gt_grad"]) == (0, 4 * TOKENS_PER_STEP - budget)
    elif selection == "defer":  # the helper is a trained model, so right about many tokens
        assert metrics["tokens_call_grad"] > 4 * TOKENS_PER_STEP * 0.2
        assert metrics["tokens_gt_grad"] == 4 * TOKENS_PER_STEP
    else:
        assert 0 < metrics["tokens_call_grad"] <= budget


def test_a_corpus_without_facts_is_trained_on_with_a_warning_and_nothing_is_delegated(
    prepared: PreparedData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = label(prepared, tmp_path / "labels", share=0.0)
    artifact = stage(Run.local(tmp_path / "run"), config(match="gradient_tokens"), prepared=prepared, labels=nothing)
    assert "no token of the training split is labelled as a fact" in capsys.readouterr().err
    assert artifact.metrics["steps"] == 20
    assert artifact.metrics["tokens_call_grad"] == 0
    assert artifact.metrics["tokens_gt_grad"] == artifact.metrics["tokens_forward"]
    assert "auroc_delegated" not in artifact.metrics
    json.loads((artifact.folder / "artifact.json").read_text(), parse_constant=pytest.fail)


def test_what_does_not_fit_is_refused_with_what_is_allowed(
    prepared: PreparedData, labels: Labels, pretrained: TrainedModel, tmp_path: Path
) -> None:
    def refused(cfg: DelegateConfig, words: str, start: TrainedModel | None = None, bits: Labels = labels) -> None:
        with pytest.raises((InputError, ArtifactError), match=words):
            stage(Run.local(tmp_path / "run"), cfg, prepared=prepared, labels=bits, pretrained=start)
        assert list((tmp_path / "run").iterdir()) == []

    refused(config(start="checkpoint"), "none was given: run `lacewing pretrain`")
    wider = config(start="checkpoint").model_copy(update={"model": MODEL.model_copy(update={"width": 64})})
    refused(wider, "use the same shape for both", pretrained)
    refused(config(selection="rho_call"), "from scratch has none: set delegation.reference")
    refused(
        config(selection="loss", budget=1.0, match="gradient_tokens", warmup_fraction=0.0), "lower delegation.budget"
    )
    for kind in ("endpoint", "retrieval", "none"):
        helper = HelperConfig(kind=kind, url="http://127.0.0.1:9/v1")  # type: ignore[arg-type]
        refused(
            config(helper=helper, selection="defer"), f"helper.kind={kind} cannot say .*allowed are helper.kind=world"
        )
    bare = label(prepared, tmp_path / "bare", share=0.3, judged=False)
    refused(config(selection="judge"), "needs the values that a judge labelled", bits=bare)

    (tmp_path / "bare" / Labels.FACTS / "validation.bits").unlink()
    refused(config(), r"validation.bits is missing", bits=bare)


def test_models_of_another_vocabulary_are_refused(
    prepared: PreparedData, labels: Labels, pretrained: TrainedModel, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(pretrained.model_folder, other)
    (other / "tokenizer.json").write_text("{}")
    for settings in (
        {"selection": "rho_call", "reference": str(other)},
        {"selection": "defer", "helper": HelperConfig(kind="model", model=str(other))},
    ):
        with pytest.raises(InputError, match="has another tokenizer than the training data"):
            stage(Run.local(tmp_path / "run"), config(**settings), prepared=prepared, labels=labels)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is not a model folder"):
        FrozenModel.loaded(tmp_path, "helper.model", prepared.tokenizer_folder, 32)
    with pytest.raises(InputError, match="reads 32 tokens at most"):
        FrozenModel.loaded(pretrained.model_folder, "helper.model", prepared.tokenizer_folder, 64)


def test_a_frozen_model_says_its_losses_without_call_and_where_it_is_right(
    prepared: PreparedData, pretrained: TrainedModel
) -> None:
    set_threads(trainer())
    shards = prepared.shards()
    batch = next(iter(ValidationBatches(shards.splits["validation"], 32, shards.boundary_id, 4, 1)))
    frozen = FrozenModel.loaded(pretrained.folder, "helper.model", prepared.tokenizer_folder, 32)
    known = frozen.of(batch)
    scores = frozen.model.logits(frozen.model(batch.tokens, batch.document_start)).flatten(0, 1)
    scores[:, SPECIAL.call] = -math.inf
    expected = torch.nn.functional.cross_entropy(scores, batch.targets.flatten(), reduction="none")
    torch.testing.assert_close(known.loss, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(known.right, scores.argmax(-1) == batch.targets.flatten())
    assert not known.loss.requires_grad


def test_boundaries_and_the_first_token_after_one_are_never_eligible_and_the_table_knows_values_only() -> None:
    end = 0
    batch = Batch(
        tokens=torch.tensor([[7, 8, end, 5, 6]]),
        targets=torch.tensor([[8, end, 5, 6, -100]]),
        document_start=torch.zeros(1, 5, dtype=torch.long),
        columns={
            FACTUAL: torch.tensor([[True, False, True, True, False]]),
            JUDGED: torch.tensor([[False, False, False, True, False]]),
        },
    )
    evidence = statistics(batch, end, torch.ones(5), helper=FactTable())
    assert evidence.eligible.tolist() == [True, False, False, True, False]
    assert evidence.valid.tolist() == [True, True, True, True, False]
    assert evidence.helper_right is not None
    assert evidence.helper_loss is not None
    assert evidence.helper_right.tolist() == [False, False, False, True, False]
    assert evidence.helper_loss.tolist() == [math.inf, math.inf, math.inf, 0.0, math.inf]


def test_overlap_is_the_share_that_both_hold() -> None:
    assert overlap(torch.tensor([True, True, False]), torch.tensor([True, False, False])) == 0.5
    assert math.isnan(overlap(torch.tensor([False]), torch.tensor([False])))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("selection", ["lacy", "random"])
def test_two_processes_delegate_what_one_delegates(
    prepared: PreparedData, labels: Labels, tmp_path: Path, selection: str
) -> None:
    """They rank together: one forward pass of two processes holds the tokens of one pass of a single process."""
    artifacts = {}
    for devices in (1, 2):
        loop = {"devices": devices, "micro_batch_size": 8 // devices, "max_steps": 8, "validation_batches": 99}
        folder = tmp_path / str(devices)
        folder.mkdir()
        request = Request(
            function="components.delegation.train:stage",
            config_type="components.delegation.config:DelegateConfig",
            config=config(loop, selection=selection).model_dump(mode="json"),
            inputs={"prepared": prepared.folder, "labels": labels.folder},
            identity=Identity(stage="delegate", key="0" * 32, config={}, inputs={}, code={}, environment={}),
        )
        write_request(folder, request)
        command = [sys.executable, "-m", "components.core.worker", str(folder)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        artifacts[devices] = TrainedModel.open(folder).verify()
    one, two = (artifact.metrics for artifact in artifacts.values())
    for counter in ("tokens_forward", "tokens_gt_grad", "tokens_call_grad"):
        assert one[counter] == two[counter]
    for metric in ("loss", "validation_loss", "validation_loss_factual"):
        assert two[metric] == pytest.approx(one[metric], rel=1e-4), metric
    # Validation batches are half as large with two processes, and each has a budget of its own.
    assert two["call_delegated"] == pytest.approx(one["call_delegated"], rel=0.02)
