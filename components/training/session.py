"""One training run from a module to a sealed artifact: what the stages ``pretrain`` and ``delegate`` share."""

import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning
import torch

from components.core.artifact import CHECKPOINTS, Rows
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.shards import ShardSet
from components.data.special_tokens import SpecialTokens
from components.model import ops
from components.model.checkpoint import save_model
from components.model.transformer import Transformer
from components.training.best import Best
from components.training.checkpoints import Checkpoints
from components.training.config import PretrainConfig
from components.training.history import History, last_metric, mean_tokens_per_second
from components.training.loader import Alter, TokenColumns
from components.training.memory import keep_freed_memory
from components.training.module import TrainingModule
from components.training.precision import chosen_device, chosen_precision, compute_dtype
from components.training.threads import set_threads
from components.training.throughput import Peak, peak
from components.training.trained import TrainedModel, read_history
from components.training.trainer import ShardData, lightning_trainer


@dataclass(frozen=True)
class Session:
    """Where, how precisely, with which kernels and since when a run trains."""

    device: torch.device
    precision: str
    peak: Peak
    """The denominator of MFU."""
    kernels: dict[str, str]
    """What each hot operation is going to use, in words."""
    began: float = field(default_factory=time.perf_counter)

    @classmethod
    def open(cls, cfg: PretrainConfig) -> "Session":
        """Choose them, and set the threads of this process and what it does with freed memory.

        Raises ``InputError`` if a GPU or kernels are asked for that are not to be had here.
        """
        began = time.perf_counter()
        device = chosen_device(cfg.trainer.device)
        precision = chosen_precision(cfg.trainer.precision, device)
        dtype = compute_dtype(precision)
        kernels = ops.chosen(device, dtype, cfg.model.head_dim, cfg.model.context_length)
        set_threads(cfg.trainer)
        keep_freed_memory()
        return cls(device, precision, peak(device, dtype, cfg.trainer.devices), kernels, began)

    def train(
        self,
        run: Run,
        cfg: PretrainConfig,
        prepared: PreparedData,
        shards: ShardSet,
        module: TrainingModule,
        name: str,
        columns: TokenColumns = MappingProxyType({}),
        details: Mapping[str, Any] | None = None,
        rows: Callable[[Mapping[str, float]], Rows] = lambda metrics: (),
        alter: Alter | None = None,
        also_save: Callable[[Path], None] = lambda folder: None,
        merge_adapter: Callable[[Path], object] = lambda folder: None,
    ) -> TrainedModel:
        """Train ``module`` on ``shards`` and seal the model, its history and its metrics; resumes from a checkpoint.

        ``name`` stands before the progress bar; ``columns`` come with every batch; ``alter`` changes those to
        train on; ``rows`` chooses from the metrics what people see of the run; ``also_save`` puts what the objective
        has learnt into the folder of the model.
        ``merge_adapter`` is called after the last step: it writes the adapter, if that is what was trained, into the
        folder that it is given and merges it into the model.

        Raises ``InputError`` for a corpus smaller than one batch and for a diverging loss, ``DiskFullError`` if a file
        cannot be written, ``ArtifactError`` for damaged inputs, ``StoppedError`` after a signal (a checkpoint is
        saved).
        """
        history = History(run, cfg.trainer, cfg.tokens_per_step, self._peak_seconds_per_token(cfg, shards), name=name)
        best = Best(run.folder / CHECKPOINTS, cfg.trainer, history)
        checkpoints = Checkpoints(run.folder / CHECKPOINTS, cfg.trainer, history)
        trainer = lightning_trainer(cfg.trainer, self.device, self.precision, run.folder, [history, best, checkpoints])
        data = ShardData(shards, cfg, ranks=trainer.world_size, columns=columns, alter=alter)
        if trainer.is_global_zero:
            self._announce(cfg, shards)
        taken = _fit(trainer, module, data, history, checkpoints)
        if not trainer.is_global_zero:  # the other ranks were started for the loop only; the first one seals
            sys.exit(0)
        if cfg.trainer.keep == "best":
            best.restore(module)
        merge_adapter(run.folder / TrainedModel.ADAPTER)
        _save(module.model, prepared, run.folder / TrainedModel.MODEL)
        also_save(run.folder / TrainedModel.MODEL)
        metrics = self._metrics(run, cfg, shards, module, best)
        facts = {**self._details(cfg, shards, taken, int(metrics["tokens"])), **(details or {})}
        sealed = run.seal(metrics, facts, rows(metrics), view=TrainedModel)
        shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
        return sealed

    def _peak_seconds_per_token(self, cfg: PretrainConfig, shards: ShardSet) -> float:
        flops_per_token = cfg.model.training_flops_per_token(shards.vocab_size, cfg.model.context_length)
        return flops_per_token / self.peak.flops_per_second

    def _announce(self, cfg: PretrainConfig, shards: ShardSet) -> None:
        """Tell people on stderr what is trained, how and with which kernels."""
        print(
            f"{cfg.model.name}: {cfg.model.parameters(shards.vocab_size):,} parameters, {self.precision} on "
            f"{self.device.type}; MFU is against {self.peak.flops_per_second / 1e12:.3f} TFLOP/s "
            f"({self.peak.source})\n"
            f"{cfg.model.name}: {', '.join(f'{operation} by {path}' for operation, path in self.kernels.items())}",
            file=sys.stderr,
        )

    def _metrics(
        self, run: Run, cfg: PretrainConfig, shards: ShardSet, module: TrainingModule, best: Best
    ) -> dict[str, float]:
        rows = read_history(run.folder / TrainedModel.HISTORY)
        steps = max(row["step"] for row in rows)  # fewer than max_steps if patience ended it
        kept = best.step if cfg.trainer.keep == "best" else steps
        tokens_per_second = mean_tokens_per_second(read_history(run.folder / TrainedModel.SPEED))
        return {
            "parameters": float(cfg.model.parameters(shards.vocab_size)),
            "steps": float(steps),
            "tokens": float(steps * cfg.tokens_per_step),
            "loss": last_metric(rows, "loss"),
            **{name: last_metric([row for row in rows if row["step"] <= kept], name) for name in module.validation},
            **({"kept_step": float(kept)} if cfg.trainer.keep == "best" else {}),
            "tokens_per_second": tokens_per_second,
            "mfu": tokens_per_second * self._peak_seconds_per_token(cfg, shards),
            "flops_per_second_peak": self.peak.flops_per_second,
            "seconds": time.perf_counter() - self.began,
            **module.objective.totals(),
        }

    def _details(self, cfg: PretrainConfig, shards: ShardSet, taken: ops.Taken, tokens: int) -> dict[str, Any]:
        return {
            "precision": self.precision,
            "device": self.device.type,
            "peak": self.peak.source,
            "ops": self.kernels | ops.described(taken),
            "preset": cfg.model.name,
            "vocab_size": shards.vocab_size,
            "tokens": tokens,
        }


def _fit(
    trainer: lightning.Trainer, module: TrainingModule, data: ShardData, history: History, checkpoints: Checkpoints
) -> ops.Taken:
    """Train, and look at the validation split after the last step too; returns which kernels ran."""
    if module.config.compile:
        module.model.compile()
    with ops.recorded() as taken:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoints.path if checkpoints.path.exists() else None)
        if history.validated_step < trainer.global_step:
            trainer.validate(module, datamodule=data, verbose=False)
    return taken


def _save(model: Transformer, prepared: PreparedData, folder: Path) -> None:
    """The model and its tokenizer, as any Llama runtime reads them."""
    save_model(model, folder, SpecialTokens.read(prepared.tokenizer_folder))
    for file in sorted(prepared.tokenizer_folder.iterdir()):
        shutil.copyfile(file, folder / file.name)


def nats_to_bits_per_byte(shards: ShardSet) -> float:
    """Factor from nats per token to bits per byte, on the validation split."""
    validation = shards.splits["validation"]
    return validation.n_tokens / max(1, validation.n_bytes) / math.log(2)
