"""Adapters in the one training loop: what is optimised, what a checkpoint holds, what an artifact has."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from components.core.errors import ArtifactError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.special_tokens import SpecialTokens
from components.model.adapters.adapter import Adapter, adapted
from components.model.adapters.config import AdapterConfig, Kind
from components.model.adapters.files import read_adapter, write_and_merge
from components.model.checkpoint import WEIGHTS
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.checkpoints import CHECKPOINT
from components.training.config import PretrainConfig, TrainerConfig
from components.training.loader import Batch
from components.training.module import TrainingModule
from components.training.objectives.base import ForwardPass, Outputs, TokenLosses
from components.training.objectives.next_token import NextToken
from components.training.optimizer import optimizer
from components.training.session import Session
from components.training.trained import TrainedModel
from tests.fakes import SPECIAL
from tests.training.conftest import prepare

SHAPE = ModelConfig(name="tiny", layers=1, width=32, hidden_width=64, heads=4, kv_heads=2, context_length=32)
SETTINGS = TrainerConfig(
    max_steps=12,
    batch_size=8,
    micro_batch_size=4,
    learning_rate=1e-2,
    precision="32-true",
    threads=1,
    log_every_steps=1,
    validate_every_steps=6,
    validation_batches=2,
    checkpoint_every_steps=5,
)


class KilledError(Exception):
    """What ends a run in the middle of a step."""


class Interrupted(NextToken):
    """Next-token prediction up to a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> TokenLosses:
        if where.step == self.step:
            raise KilledError
        return super().losses(batch, outputs, where)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(tmp_path_factory.mktemp("prepared"))


def base(vocab_size: int) -> Transformer:
    torch.manual_seed(0)
    return Transformer(SHAPE, vocab_size).eval()


def tune(folder: Path, prepared: PreparedData, adapter: AdapterConfig, stop_at: int = -2) -> TrainedModel:
    """What a method of finetuning does with ``finetune.adapter``."""
    config = PretrainConfig(model=SHAPE, trainer=SETTINGS)
    session = Session.open(config)
    shards, special = prepared.shards(), SpecialTokens.read(prepared.tokenizer_folder)
    model = base(shards.vocab_size)
    on = adapted(model, adapter, special)
    assert on is not None
    module = TrainingModule(model, SETTINGS, Interrupted(stop_at))
    write = partial(write_and_merge, on, special=special)
    return session.train(Run.local(folder), config, prepared, shards, module, "tune", merge_adapter=write)


@pytest.mark.parametrize(("kind", "dropout"), [("pissa", 0.3), ("loftq", 0.3), ("lora", 0.0)])
def test_interrupted_and_resumed_the_weights_are_bit_equal(
    kind: Kind, dropout: float, prepared: PreparedData, tmp_path: Path
) -> None:
    adapter = AdapterConfig(kind=kind, rank=2, dropout=dropout)
    whole = tune(tmp_path / "whole", prepared, adapter)
    with pytest.raises(KilledError):
        tune(tmp_path / "killed", prepared, adapter, stop_at=8)
    checkpoint = torch.load(tmp_path / "killed" / "checkpoints" / CHECKPOINT, weights_only=True)
    assert checkpoint["global_step"] == 5
    resumed = tune(tmp_path / "killed", prepared, adapter)
    for name in (f"model/{WEIGHTS}", "adapter/adapter_model.safetensors"):
        first, second = load_file(whole.folder / name), load_file(resumed.folder / name)
        assert all(torch.equal(weight, second[key]) for key, weight in first.items())
    assert whole.history() == resumed.history()


def test_a_checkpoint_holds_only_what_is_trained(prepared: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        tune(tmp_path, prepared, AdapterConfig(kind="lora"), stop_at=8)
    checkpoint = torch.load(tmp_path / "checkpoints" / CHECKPOINT, weights_only=True)
    trained = set(checkpoint["state_dict"])
    assert len(trained) == 2 * 7 + 1
    assert all("lora_" in name or name.endswith(".rows") for name in trained)
    assert len(checkpoint["optimizer_states"][0]["state"]) == len(trained)


def test_the_artifact_has_the_merged_model_and_the_adapter_by_itself(prepared: PreparedData, tmp_path: Path) -> None:
    tuned = tune(tmp_path, prepared, AdapterConfig(kind="dora"))
    merged = tuned.load()
    alone = base(prepared.shards().vocab_size)
    assert not torch.equal(merged.output_weight, alone.output_weight)
    read_adapter(alone, tuned.adapter_folder)
    tokens = torch.arange(2 * 32).reshape(2, 32)
    with torch.no_grad():
        torch.testing.assert_close(alone.logits(alone(tokens)), merged.logits(merged(tokens)), rtol=1e-5, atol=1e-6)
    rows = [row for row in tuned.history() if "validation_loss" in row]
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]


def test_without_an_adapter_there_is_no_folder_of_one(prepared: PreparedData, tmp_path: Path) -> None:
    sealed = Run.local(tmp_path).seal({}, view=TrainedModel)
    with pytest.raises(ArtifactError, match="has no 'adapter'"):
        _ = sealed.adapter_folder


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_optimizer_keeps_a_tenth_of_what_full_training_needs(name: str) -> None:
    settings = TrainerConfig.model_validate({"optimizer": name})
    full, small = Transformer(ModelConfig(), 2048), Transformer(ModelConfig(), 2048)
    assert isinstance(adapted(small, AdapterConfig(kind="lora", rank=4), SPECIAL), Adapter)
    assert state_bytes(small, settings) < 0.1 * state_bytes(full, settings)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_scales_of_ia3_do_not_decay(name: str) -> None:
    model = Transformer(SHAPE, 320)
    adapted(model, AdapterConfig(kind="ia3", special_rows=False), SPECIAL)
    chosen = optimizer(model, TrainerConfig.model_validate({"optimizer": name, "weight_decay": 0.3}))
    groups = [group for group in chosen.param_groups if group["params"]]
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(7, 0.0)]


def state_bytes(model: Transformer, settings: TrainerConfig) -> int:
    """Bytes of an optimizer's state after a step."""
    chosen = optimizer(model, settings)
    model.logits(model(torch.zeros(1, 4, dtype=torch.long))).logsumexp(-1).sum().backward()
    chosen.step()
    tensors = [value for state in chosen.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    assert all(isinstance(weight, nn.Parameter) for weight in chosen.state)
    return sum(tensor.nbytes for tensor in tensors)
