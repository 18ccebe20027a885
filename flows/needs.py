"""What a configuration needs of the machine at least, before anything of it runs.

Lower bounds, computed from the settings alone: what is refused here could not have run. What passes may still be too
much, and the stage then ends with an error of its own.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from conf.schema import ProjectConfig

# Single-precision weight and gradient, and one moment (Muon keeps one, AdamW two).
_BYTES_PER_TRAINED_WEIGHT = 12
_ACTIVATION_BYTES = 2  # bf16; of every layer, the inputs of its matrices are kept for the backward pass
_WORLD_DOCUMENT_BYTES = 300  # the shortest documents of the closed world
_RESAMPLE_BYTES = 8
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class Need(NamedTuple):
    """A lower bound, and the settings that it follows from."""

    n_bytes: int
    of: str


def memory_needs(config: ProjectConfig) -> Iterator[Need]:
    """Memory, by what takes it; each of these is needed whole at one time."""
    model, trainer = config.model, config.trainer
    parameters = model.parameters(config.data.vocab_size)
    yield Need(
        parameters * _BYTES_PER_TRAINED_WEIGHT,
        f"{parameters:,} parameters with gradients and optimizer (model.layers={model.layers}, model.width="
        f"{model.width}, model.hidden_width={model.hidden_width}, data.vocab_size={config.data.vocab_size})",
    )
    tokens = trainer.micro_batch_size * model.context_length
    yield Need(
        tokens * model.layers * (6 * model.width + 3 * model.hidden_width) * _ACTIVATION_BYTES,
        f"the activations of {tokens:,} tokens (trainer.micro_batch_size={trainer.micro_batch_size}, "
        f"model.context_length={model.context_length}, model.layers={model.layers})",
    )
    resampled = {
        "assess": config.assess,
        "facts": config.facts,
        "compare": config.compare,
        "arena": config.arena,
        "release.gate": config.release.gate,
    }
    for section, settings in resampled.items():
        yield Need(settings.resamples * _RESAMPLE_BYTES, f"{section}.resamples={settings.resamples}")


def disk_needs(config: ProjectConfig) -> Iterator[Need]:
    """Room on the workspace's disk."""
    world = config.data.world
    if "world" in config.data.sources:
        documents = int(world.entities * world.documents_per_entity)
        yield Need(
            documents * _WORLD_DOCUMENT_BYTES,
            f"{documents:,} documents (data.world.entities={world.entities}, "
            f"data.world.documents_per_entity={world.documents_per_entity:g})",
        )


def memory_bytes() -> int:
    """Memory of this machine, or what its container may use of it."""
    import psutil

    total = int(psutil.virtual_memory().total)
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    return min(total, int(limit)) if limit.isdigit() else total
