"""A step is the same however it is divided: one sum of losses over one sum of weights."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from components.delegation.columns import FACTUAL
from components.model.transformer import Transformer
from components.training.loader import IGNORED
from components.training.module import TrainingModule
from components.training.objectives.base import ForwardPass, Ranks
from components.training.objectives.next_token import NextToken
from tests.training.ragged import (
    MODEL,
    OBJECTIVES,
    ROWS,
    VOCABULARY,
    curve,
    objective,
    rows_of,
    settings,
    train,
    whole_step,
)

TOLERANCE = 1e-5
TOKEN_BY_TOKEN = [name for name in OBJECTIVES if name != "lacy"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_the_module_minimises_the_mean_over_the_valid_targets_of_the_whole_step() -> None:
    config = settings(micro_batch_size=2)
    module = TrainingModule(Transformer(MODEL, VOCABULARY), config, NextToken())
    batch = whole_step(0)
    for part in range(4):
        share = rows_of(batch, slice(2 * part, 2 * part + 2))
        (module.training_step(share, part) / config.accumulation).backward()  # as Lightning divides
    module.normalise()
    ours = [weight.grad.clone() for weight in module.model.parameters() if weight.grad is not None]
    module.zero_grad()

    logits = module.model.logits(module.model(batch.tokens, batch.document_start)).flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED).backward()
    for gradient, weight in zip(ours, module.model.parameters(), strict=True):
        torch.testing.assert_close(gradient, weight.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", TOKEN_BY_TOKEN)
def test_four_micro_batches_learn_the_curve_of_one(tmp_path: Path, name: str) -> None:
    whole = train(tmp_path / "whole", name)
    parts = train(tmp_path / "parts", name, micro_batch_size=2)
    one, four = curve(tmp_path / "whole"), curve(tmp_path / "parts")
    assert len(one) >= 2 * 8 + 1
    assert four == pytest.approx(one, abs=TOLERANCE)
    for ours, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_two_processes_learn_the_curve_of_one(tmp_path: Path) -> None:
    """Also with ``lacy``, whose budget is spent over all ranks of a forward pass."""
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_network_port()),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.training.ragged", str(tmp_path / "two")]
    ranks = [
        subprocess.Popen(
            command, env={**environment, "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        for rank in (0, 1)
    ]
    for name in OBJECTIVES:
        train(tmp_path / "one" / name, name)
    for rank in ranks:
        _, errors = rank.communicate(timeout=180)
        assert rank.returncode == 0, errors.decode()
    for name in OBJECTIVES:
        assert curve(tmp_path / "two" / name) == pytest.approx(curve(tmp_path / "one" / name), abs=TOLERANCE), name


@pytest.mark.parametrize("changes", [{"precision": "bf16-mixed"}, {"gradient_clip": 0.05}])
def test_it_holds_in_bf16_and_where_gradients_are_clipped(tmp_path: Path, changes: dict[str, object]) -> None:
    train(tmp_path / "whole", "next token", **changes)
    train(tmp_path / "parts", "next token", micro_batch_size=2, **changes)
    tolerance = 3e-2 if "precision" in changes else TOLERANCE
    assert curve(tmp_path / "parts") == pytest.approx(curve(tmp_path / "whole"), abs=tolerance)


def test_without_masks_nothing_is_corrected(tmp_path: Path) -> None:
    module = train(tmp_path, "lacy", (MODEL.context_length,) * ROWS, micro_batch_size=2, max_steps=1)
    assert module.correction.item() == 1.0


def test_a_step_without_any_target_teaches_nothing(tmp_path: Path) -> None:
    module = train(tmp_path, "next token", (0,) * ROWS, max_steps=1)
    assert module.gradient_norm.item() == 0.0
    assert all(parameter.isfinite().all() for parameter in module.model.parameters())


def test_a_dropped_token_counts_and_a_masked_one_does_not() -> None:
    config = settings()
    module = TrainingModule(Transformer(MODEL, VOCABULARY), config, objective("ignore_facts", config))
    batch = whole_step(0)
    losses, weights = module.objective.losses(batch, module.outputs(batch), ForwardPass(0, 0, Ranks()))
    valid = batch.targets.flatten() != IGNORED
    assert torch.equal(weights, valid.float())
    assert losses[~valid].abs().max() == 0
    dropped = (losses == 0) & valid
    assert 0 < dropped.sum() <= (batch.columns[FACTUAL].flatten() & valid).sum()
    assert not math.isnan(losses.sum().item())
