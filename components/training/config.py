"""Settings of the training loop. Imports neither torch nor numpy: the flow process reads it too."""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from components.core.neutral import Neutral
from components.model.config import ModelConfig


class TrainerConfig(BaseModel):
    """Optimization, precision and bookkeeping of one training run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_steps: PositiveInt = 680
    """Optimizer steps."""
    batch_size: PositiveInt = 8
    """Sequences per optimizer step, over all devices; each has model.context_length tokens."""
    micro_batch_size: PositiveInt = 8
    """Sequences per forward pass on one device; gradients are accumulated until batch_size is reached."""
    optimizer: Annotated[Literal["adamw", "muon"], Neutral("adamw")] = "muon"
    """muon takes orthogonal steps for the matrices of the layers and AdamW's for all other weights: fewer tokens to the
    same loss in short runs. The presets from 10m on keep adamw."""
    learning_rate: PositiveFloat = 1.2e-2
    """Peak learning rate, of all weights."""
    minimum_learning_rate_fraction: float = Field(default=0.01, ge=0.0, le=1.0)
    """The cosine ends at this fraction of the peak."""
    warmup_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of max_steps that is linear warm-up before the cosine."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices; norm weights are not decayed."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Decay of AdamW's gradient mean."""
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Decay of AdamW's squared-gradient mean."""
    gradient_clip: PositiveFloat = 1.0
    """Largest norm of the gradient over all weights; longer gradients are scaled down to it."""
    seed: NonNegativeInt = Field(default=0, lt=2**63)
    """Decides the initial weights and the order of the data."""
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """auto takes bf16-mixed where the CPU (AMX or AVX-512 bf16) or the GPU computes it natively, else 32-true."""
    compile: bool = False
    """Compile the model with torch.compile; costs tens of seconds, so it pays only for longer runs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU if there is one."""
    devices: PositiveInt = 1
    """Devices (on CPU: processes) to train on, by distributed data parallelism."""
    threads: NonNegativeInt = 0
    """CPU threads per process; 0 takes one per physical core that this process may use."""
    log_every_steps: PositiveInt = 10
    """Optimizer steps between two rows of the history; each row waits for the device once."""
    validate_every_steps: PositiveInt = 150
    """Optimizer steps between two looks at the validation split."""
    validation_batches: PositiveInt = 16
    """Micro-batches of the validation split to look at each time, always the same ones."""
    checkpoint_every_steps: PositiveInt = 100
    """Optimizer steps between two checkpoints; only the last one is kept, and none after success."""
    keep: Annotated[Literal["last", "best"], Neutral("last")] = "last"
    """Weights that the model ends with: those of the last step, or of the validation with the best criterion."""
    criterion: Annotated[str, Neutral("validation_loss")] = "validation_loss"
    """Metric of the validation that keep=best and patience look at."""
    better: Annotated[Literal["lower", "higher"], Neutral("lower")] = "lower"
    """Which values of the criterion are better."""
    patience: Annotated[NonNegativeInt, Neutral(0)] = 0
    """Stop after this many validations in a row that were not better than the best; 0 never stops. The learning rate
    follows max_steps all the same."""

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps of linear warm-up; fewer than max_steps."""
        return int(self.warmup_fraction * self.max_steps)

    @property
    def accumulation(self) -> int:
        """Forward passes per optimizer step on each device."""
        return self.batch_size // (self.micro_batch_size * self.devices)

    @model_validator(mode="after")
    def _numbers_agree(self) -> "TrainerConfig":
        if self.batch_size % (self.micro_batch_size * self.devices):
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size} "
                f"times devices {self.devices}"
            )
        return self


class PretrainConfig(BaseModel):
    """What ``components.pretrain`` reads: the sections ``model`` and ``trainer`` of the composed configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: ModelConfig = ModelConfig()
    """Shape of the decoder."""
    trainer: TrainerConfig = TrainerConfig()
    """How to train it."""

    @property
    def tokens_per_step(self) -> int:
        """Targets of one optimizer step, masked ones too."""
        return self.trainer.batch_size * self.model.context_length
