"""The stage ``pretrain``: prepared shards in, a model folder that any Llama runtime can read out.

The loop is Lightning's Trainer over plain torch modules. If the stage's folder holds a checkpoint, training goes on
from it, with the batches it would have seen without the interruption.
"""

import math
import shutil
import sys
import time

import torch

from components.core.artifact import Artifact
from components.core.run import Run
from components.data.shards import ShardSet
from components.model import ops
from components.model.checkpoint import save_model
from components.model.transformer import Transformer
from components.training.checkpoints import Checkpoints
from components.training.config import PretrainConfig
from components.training.history import HISTORY, History, last_figure, mean_tokens_per_second, read_history
from components.training.module import LanguageModel
from components.training.precision import chosen_device, chosen_precision, compute_dtype
from components.training.threads import set_threads
from components.training.throughput import peak
from components.training.trainer import ShardData, lightning_trainer

CHECKPOINTS = "checkpoints"


def stage(run: Run, cfg: PretrainConfig, prepared: Artifact) -> Artifact:
    """Train a decoder on the shards of ``prepared``.

    Raises ``InputError`` for a corpus smaller than one batch, a diverging loss, and kernels that were asked for and
    cannot run here; ``DiskFullError`` if a file cannot be written, ``ArtifactError`` for damaged inputs,
    ``StoppedError`` after a signal (a checkpoint is saved).
    """
    began = time.perf_counter()
    device = chosen_device(cfg.trainer.device)
    precision = chosen_precision(cfg.trainer.precision, device)
    kernels = ops.chosen(device, compute_dtype(precision), cfg.model.head_dim, cfg.model.context_length)
    set_threads(cfg.trainer)
    denominator = peak(device, compute_dtype(precision), cfg.trainer.devices)
    shards = ShardSet.open(prepared.path("shards"))

    torch.manual_seed(cfg.trainer.seed)
    model = Transformer(cfg.model, shards.vocab_size)
    validation = shards.splits["validation"]
    module = LanguageModel(model, cfg.trainer, validation.n_tokens / max(1, validation.n_bytes) / math.log(2))
    if cfg.trainer.compile:
        model.compile()

    tokens_per_step = cfg.trainer.batch_size * cfg.model.context_length
    flops_per_token = cfg.model.training_flops_per_token(shards.vocab_size, cfg.model.context_length)
    history = History(run, cfg.trainer, tokens_per_step, flops_per_token / denominator.flops_per_second)
    checkpoints = Checkpoints(run.folder / CHECKPOINTS, cfg.trainer.checkpoint_every_steps, history)
    trainer = lightning_trainer(cfg.trainer, device, precision, run.folder, [history, checkpoints])
    data = ShardData(shards, cfg, ranks=trainer.world_size)
    if trainer.is_global_zero:
        print(
            f"{cfg.model.name}: {cfg.model.parameters(shards.vocab_size):,} parameters, {precision} on {device.type}; "
            f"MFU is against {denominator.flops_per_second / 1e12:.3f} TFLOP/s ({denominator.source})\n"
            f"{cfg.model.name}: {', '.join(f'{operation} by {path}' for operation, path in kernels.items())}",
            file=sys.stderr,
        )
    with ops.recorded() as taken:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoints.path if checkpoints.path.exists() else None)
        if history.validated_step < cfg.trainer.max_steps:
            trainer.validate(module, datamodule=data, verbose=False)
    if not trainer.is_global_zero:  # the other ranks were started for the loop only; the first one seals
        sys.exit(0)

    save_model(model, run.folder / "model")
    for file in sorted(prepared.path("tokenizer").iterdir()):
        shutil.copyfile(file, run.folder / "model" / file.name)
    rows = read_history(run.folder / HISTORY)
    tokens_per_second = mean_tokens_per_second(rows)
    sealed = run.seal(
        metrics={
            "parameters": float(cfg.model.parameters(shards.vocab_size)),
            "steps": float(cfg.trainer.max_steps),
            "tokens": float(cfg.trainer.max_steps * tokens_per_step),
            "loss": last_figure(rows, "loss"),
            "validation_loss": last_figure(rows, "validation_loss"),
            "validation_bits_per_byte": last_figure(rows, "validation_bits_per_byte"),
            "tokens_per_second": tokens_per_second,
            "mfu": tokens_per_second * flops_per_token / denominator.flops_per_second,
            "flops_per_second_peak": denominator.flops_per_second,
            "seconds": time.perf_counter() - began,
        },
        details={
            "precision": precision,
            "device": device.type,
            "peak": denominator.source,
            "ops": kernels | ops.described(taken),
            "preset": cfg.model.name,
            "vocab_size": shards.vocab_size,
        },
    )
    shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
    return sealed
