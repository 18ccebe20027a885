"""The stage as a whole: what it leaves, that it learns, and that no accident loses work."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.core import worker
from components.core.errors import ArtifactError, DiskFullError, InputError
from components.core.identity import Identity
from components.core.run import Run
from components.core.worker import write_request
from components.data.prepared import PreparedData
from components.data.shards import ShardSet
from components.model.checkpoint import WEIGHTS, load_model
from components.model.config import ModelConfig
from components.pretrain import stage
from components.training.checkpoints import CHECKPOINT, StoppedError
from components.training.config import PretrainConfig, TrainerConfig
from components.training.history import read_history
from components.training.loader import IGNORED, ValidationBatches
from components.training.trained import TrainedModel
from tests.training.conftest import prepare

MODEL = ModelConfig(name="tiny", layers=2, width=32, hidden_width=64, heads=4, kv_heads=2, context_length=32)


def config(**trainer: object) -> PretrainConfig:
    values: dict[str, object] = {
        "max_steps": 24,
        "batch_size": 8,
        "micro_batch_size": 4,
        "warmup_fraction": 0.25,
        "learning_rate": 1e-2,
        "precision": "32-true",
        "threads": 1,
        "log_every_steps": 4,
        "validate_every_steps": 10,
        "validation_batches": 4,
        "checkpoint_every_steps": 5,
    }
    return PretrainConfig(model=MODEL, trainer=TrainerConfig.model_validate({**values, **trainer}))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(tmp_path_factory.mktemp("prepared"))


class Worker:
    """The stage in a process of its own, which may be killed.

    Workers are forked from one server that has imported everything already: that saves seconds for each.
    """

    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["components.pretrain"])

    def __init__(
        self,
        folder: Path,
        cfg: PretrainConfig,
        prepared: PreparedData,
        largest_file_bytes: int = resource.RLIM_INFINITY,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_request(folder, request(folder, cfg, prepared=prepared))
        self.folder = folder
        self.errors = folder.with_suffix(".stderr")
        self.process = self.processes.Process(target=_work, args=(folder, self.errors, largest_file_bytes))
        self.process.start()

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 120
        while not any(row["step"] >= step for row in read_history(self.folder / TrainedModel.HISTORY)):
            assert self.process.is_alive(), self.errors.read_text()
            assert time.monotonic() < deadline, f"step {step} was not reached in two minutes"
            time.sleep(0.002)

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def exit_code(self) -> int | None:
        self.process.join(120)
        return self.process.exitcode


def _work(folder: Path, errors: Path, largest_file_bytes: int) -> None:
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, largest_file_bytes))
    sys.exit(worker.main(folder))


def request(folder: Path, cfg: PretrainConfig, prepared: PreparedData) -> worker.Request:
    return worker.Request(
        function="components.pretrain:stage",
        config_type="components.training.config:PretrainConfig",
        config=cfg.model_dump(mode="json"),
        inputs={"prepared": prepared.folder},
        identity=Identity(stage="pretrain", key="0" * 32, config={}, inputs={}, code={}, environment={}),
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / TrainedModel.MODEL / WEIGHTS)


def assert_bit_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_run_leaves_a_model_a_history_and_figures(prepared: PreparedData, tmp_path: Path) -> None:
    logged: list[tuple[int | None, dict[str, float]]] = []
    reported: list[float] = []
    run = Run(
        tmp_path / "run",
        Run.local(tmp_path / "run").identity,
        log=lambda metrics, step: logged.append((step, dict(metrics))),
        report=lambda fraction, message: reported.append(fraction),
    )
    artifact = stage(run, config(), prepared=prepared).verify()

    model = load_model(artifact.model_folder)
    assert model.config == MODEL
    assert {path.name for path in artifact.model_folder.iterdir()} >= {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    }
    rows = artifact.history()
    assert [row["step"] for row in rows if "loss" in row] == [4, 8, 12, 16, 20, 24]
    assert [row["step"] for row in rows if "validation_loss" in row] == [10, 20, 24]
    assert [step for step, metrics in logged if "loss" in metrics] == [4, 8, 12, 16, 20, 24]
    assert reported[-1] == 1.0
    assert reported == sorted(reported)

    metrics = artifact.metrics
    assert set(metrics) == {
        "parameters", "steps", "tokens", "loss", "validation_loss", "validation_bits_per_byte",
        "tokens_per_second", "mfu", "flops_per_second_peak", "seconds",
    }  # fmt: skip
    timed = artifact.speed()
    assert len(timed) == 6
    assert [metrics["mfu"] for _, metrics in logged if "mfu" in metrics] == [row["mfu"] for row in timed]
    assert min(row["mfu"] for row in timed) <= metrics["mfu"] <= max(row["mfu"] for row in timed)
    assert metrics["tokens"] == 24 * 8 * 32
    assert metrics["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert metrics["validation_loss"] < rows[0]["loss"] - 1  # it learns
    assert 0 < metrics["mfu"] < 1
    assert artifact.details["precision"] == "32-true"
    assert "measured here" in artifact.details["peak"]
    assert artifact.details["ops"]["attention"] == "loops compiled by Numba"
    assert artifact.details["ops"]["linear_cross_entropy"] == "torch, in chunks"
    assert not (artifact.folder / "checkpoints").exists()


def test_the_reported_validation_loss_is_that_of_the_saved_model(prepared: PreparedData, tmp_path: Path) -> None:
    artifact = stage(Run.local(tmp_path / "run"), config(validation_batches=1000), prepared=prepared)
    shards = prepared.shards()
    model = load_model(artifact.model_folder)
    nats = tokens = 0.0
    for batch in ValidationBatches(shards.splits["validation"], 32, shards.boundary_id, batch_size=4, batches=1000):
        scores = model.logits(model(batch.tokens, batch.document_start)).flatten(0, 1)
        nats += torch.nn.functional.cross_entropy(scores, batch.targets.flatten(), reduction="sum").item()
        tokens += (batch.targets != IGNORED).sum().item()
    assert artifact.metrics["validation_loss"] == pytest.approx(nats / tokens, rel=1e-5)
    bits = nats / 0.6931471805599453 / shards.splits["validation"].n_bytes
    assert artifact.metrics["validation_bits_per_byte"] == pytest.approx(bits, rel=1e-2)


def test_the_same_seed_gives_the_same_weights_and_accumulation_changes_them_little(
    prepared: PreparedData, tmp_path: Path
) -> None:
    runs = [
        weights(stage(Run.local(tmp_path / name), config(**values), prepared=prepared).folder)
        for name, values in {"a": {}, "b": {}, "other seed": {"seed": 1}, "whole": {"micro_batch_size": 8}}.items()
    ]
    assert_bit_equal(runs[0], runs[1])
    name = "model.embed_tokens.weight"
    assert not torch.equal(runs[0][name], runs[2][name])
    torch.testing.assert_close(runs[0][name], runs[3][name], atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_killed_at_any_step_and_resumed_the_weights_are_bit_equal(
    prepared: PreparedData, tmp_path: Path, precision: str
) -> None:
    cfg = config(precision=precision, max_steps=60, log_every_steps=1)
    whole = stage(Run.local(tmp_path / "whole"), cfg, prepared=prepared)

    folder = tmp_path / "killed"
    for step in (13, 37):  # neither is a multiple of the checkpoint interval, nor the end of an epoch
        killed = Worker(folder, cfg, prepared=prepared)
        killed.wait_for_step(step)
        killed.signal(signal.SIGKILL)
        assert killed.exit_code() == -signal.SIGKILL
        assert not (folder / "artifact.json").exists()
        assert [path.name for path in (folder / "checkpoints").glob("[!.]*")] == [CHECKPOINT]
    resumed = stage(Run.local(folder), cfg, prepared=prepared)

    assert_bit_equal(weights(whole.folder), weights(resumed.folder))
    histories = [artifact.history() for artifact in (whole, resumed)]
    for first, second in zip(*histories, strict=True):
        for name in ("step", "loss", "learning_rate", "validation_loss"):
            assert first.get(name) == second.get(name)


def test_sigterm_saves_a_checkpoint_and_the_next_run_goes_on_from_that_very_step(
    prepared: PreparedData, tmp_path: Path
) -> None:
    cfg = config(max_steps=400, log_every_steps=1, checkpoint_every_steps=1000)
    folder = tmp_path / "run"
    stopped = Worker(folder, cfg, prepared=prepared)
    stopped.wait_for_step(7)
    stopped.signal(signal.SIGTERM)
    assert stopped.exit_code() == StoppedError.exit_code
    error = json.loads((folder / "error.json").read_text())
    assert error["type"] == "StoppedError"
    assert "SIGTERM" in error["message"]
    assert str(folder / "checkpoints" / CHECKPOINT) in error["message"]
    saved = torch.load(folder / "checkpoints" / CHECKPOINT, weights_only=True)["global_step"]
    assert 7 <= saved < 400

    resumed = Worker(folder, cfg, prepared=prepared)
    assert resumed.exit_code() == 0, resumed.errors.read_text()
    assert f"resumed after step {saved} of 400" in resumed.errors.read_text()
    assert not (folder / "error.json").exists()
    assert [row["step"] for row in read_history(folder / TrainedModel.HISTORY) if "loss" in row] == list(range(1, 401))


def test_a_full_disk_keeps_the_previous_checkpoint_and_names_the_place(prepared: PreparedData, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    cfg = config(max_steps=40, log_every_steps=1)
    killed = Worker(folder, cfg, prepared=prepared)
    killed.wait_for_step(12)
    killed.signal(signal.SIGKILL)
    assert killed.exit_code() == -signal.SIGKILL
    before = (folder / "checkpoints" / CHECKPOINT).read_bytes()

    # Stands for a full disk: no file may grow beyond half a checkpoint.
    full = Worker(folder, cfg, prepared, largest_file_bytes=len(before) // 2)
    assert full.exit_code() == DiskFullError.exit_code, full.errors.read_text()
    message = json.loads((folder / "error.json").read_text())["message"]
    assert str(folder / "checkpoints" / CHECKPOINT) in message
    assert (folder / "checkpoints" / CHECKPOINT).read_bytes() == before
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [CHECKPOINT]

    whole = stage(Run.local(tmp_path / "whole"), cfg, prepared=prepared)
    assert_bit_equal(weights(whole.folder), weights(stage(Run.local(folder), cfg, prepared=prepared).folder))


def test_a_run_that_ended_before_it_was_sealed_is_sealed_without_training_again(
    prepared: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(max_steps=25)

    def fail(*_: object) -> None:
        raise DiskFullError("no room for the weights")

    with monkeypatch.context() as patch:
        patch.setattr("components.training.session.save_model", fail)
        with pytest.raises(DiskFullError):
            stage(Run.local(tmp_path / "run"), cfg, prepared=prepared)
    before = read_history(tmp_path / "run" / TrainedModel.HISTORY)
    artifact = stage(Run.local(tmp_path / "run"), cfg, prepared=prepared)
    after = artifact.history()
    assert [row for row in after if "loss" in row] == [row for row in before if "loss" in row]
    assert artifact.metrics["validation_loss"] == before[-1]["validation_loss"]
    assert artifact.metrics["tokens_per_second"] > 0
    assert_bit_equal(
        weights(stage(Run.local(tmp_path / "whole"), cfg, prepared=prepared).folder), weights(artifact.folder)
    )


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half of one"])
def test_an_unreadable_checkpoint_is_named_with_what_to_do(
    prepared: PreparedData, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "run" / "checkpoints" / CHECKPOINT
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="delete it to train from the start") as error:
        stage(Run.local(tmp_path / "run"), config(), prepared=prepared)
    assert str(path) in str(error.value)


def test_a_diverging_loss_stops_with_its_step_and_saves_nothing_spoilt(prepared: PreparedData, tmp_path: Path) -> None:
    rates = {"learning_rate": 1e12, "gradient_clip": 1e12, "warmup_fraction": 0.0}
    cfg = config(**rates, log_every_steps=10, checkpoint_every_steps=10)
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(InputError, match=r"loss became (nan|inf) at step \d+ of 24.*trainer.learning_rate"):
        stage(Run.local(tmp_path / "run"), cfg, prepared=prepared)
    assert not (tmp_path / "run" / "checkpoints" / CHECKPOINT).exists()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


def test_a_corpus_smaller_than_one_batch_is_refused_before_anything_is_written(
    prepared: PreparedData, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"the training split has .* tokens, but one batch needs"):
        stage(Run.local(tmp_path / "run"), config(batch_size=4096, micro_batch_size=4096), prepared=prepared)
    assert list((tmp_path / "run").iterdir()) == []


# Both compute in fp32 and differ in the order of their sums: 5e-7 in the measured curve.
CURVE_TOLERANCE = 1e-5
# Of the least head dimension that there is a kernel for.
SMALL = ModelConfig(name="small", layers=1, width=32, hidden_width=48, heads=2, kv_heads=1, context_length=32)


def test_triton_and_torch_kernels_learn_the_same_curve(
    prepared: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("triton")
    few = {"max_steps": 4, "batch_size": 2, "micro_batch_size": 2, "warmup_fraction": 0.0, "optimizer": "adamw"}
    cfg = PretrainConfig(model=SMALL, trainer=config(**few, log_every_steps=1, validation_batches=1).trainer)
    curves, records, learned = {}, {}, []
    for kernels in ("torch", "triton"):
        monkeypatch.setenv("LACEWING_KERNELS", kernels)
        artifact = stage(Run.local(tmp_path / kernels), cfg, prepared=prepared)
        rows = artifact.history()
        curves[kernels] = [row.get("loss", row.get("validation_loss")) for row in rows]
        records[kernels] = artifact.details["ops"]
        learned.append(weights(artifact.folder))
        words = ", ".join(f"{operation} by {path}" for operation, path in records[kernels].items())
        assert f"small: {words}" in capsys.readouterr().err
    assert records["torch"] == {"attention": "torch matrix products", "linear_cross_entropy": "torch, in chunks"}
    assert records["triton"] == {"attention": "Triton kernel", "linear_cross_entropy": "torch products, Triton rows"}
    assert len(curves["torch"]) == 5
    assert curves["torch"][0] - curves["torch"][-1] > 0.2  # it learns
    assert curves["triton"] == pytest.approx(curves["torch"], abs=CURVE_TOLERANCE)
    # Other rounding, so this was not torch's path under another name.
    assert any(not torch.equal(tensor, learned[1][name]) for name, tensor in learned[0].items())


@pytest.mark.parametrize(
    ("kernels", "message"),
    [("triton", "LACEWING_KERNELS=triton: .*TRITON_INTERPRET=1"), ("nonsense", "LACEWING_KERNELS is 'nonsense'")],
)
def test_kernels_that_cannot_run_here_are_refused_before_anything_is_read(
    tmp_path: Path, prepared: PreparedData, monkeypatch: pytest.MonkeyPatch, kernels: str, message: str
) -> None:
    monkeypatch.setenv("LACEWING_KERNELS", kernels)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(ShardSet, "open", None)
    with pytest.raises(InputError, match=message):
        stage(
            Run.local(tmp_path / "run"),
            PretrainConfig(model=SMALL, trainer=config(device="cpu").trainer),
            prepared=prepared,
        )
    assert list((tmp_path / "run").iterdir()) == []


def test_the_choice_of_kernels_reaches_a_stage_in_its_own_process(prepared: PreparedData, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write_request(folder, request(folder, config(max_steps=6), prepared=prepared))
    environment = {**os.environ, "LACEWING_KERNELS": "nonsense"}
    done = subprocess.run([sys.executable, "-m", "components.core.worker", str(folder)], env=environment)
    assert done.returncode == InputError.exit_code
    error = json.loads((folder / "error.json").read_text())
    assert error["type"] == "InputError"
    assert "allowed are auto, torch, triton" in error["message"]


def test_damaged_shards_are_refused(prepared: PreparedData, tmp_path: Path) -> None:
    copy = tmp_path / "prepared"
    shutil.copytree(prepared.folder, copy)
    shard = next((copy / "shards").glob("train-*.bin"))
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(ArtifactError, match=r"train-.*\.bin"):
        stage(Run.local(tmp_path / "run"), config(), prepared=PreparedData.open(copy))


def test_lightning_says_nothing_of_its_own(prepared: PreparedData, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write_request(folder, request(folder, config(max_steps=6), prepared=prepared))
    # Through the command that flows use, with everything imported afresh: imports are where adverts hide.
    command = [sys.executable, "-m", "components.core.worker", str(folder)]
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    stderr = process.stderr
    assert process.returncode == 0, stderr
    lines = [line for line in stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert all(line.startswith(("pretrain:", "tiny:")) for line in lines), stderr
    assert any("MFU is against" in line and "TFLOP/s" in line for line in lines)


@pytest.mark.soak
def test_two_processes_train_the_model_that_one_trains(prepared: PreparedData, tmp_path: Path) -> None:
    """Distributed data parallelism, started as the flow starts it: the ranks share the folder and its lock."""
    folders = {devices: tmp_path / str(devices) for devices in (1, 2)}
    for devices, folder in folders.items():
        folder.mkdir()
        write_request(folder, request(folder, config(devices=devices, max_steps=6), prepared=prepared))
        command = [sys.executable, "-m", "components.core.worker", str(folder)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    one, two = (TrainedModel.open(folder).verify().metrics for folder in folders.values())
    assert two["tokens"] == one["tokens"]
    assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-4)
