"""Settings of a sweep, and the record of its trials. Imports neither torch nor numpy nor Optuna."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

Value = bool | int | float | str


class Dimension(BaseModel):
    """A setting and what is tried for it: either some values, or all numbers between two ends."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    key: str = Field(min_length=1)
    """The setting."""
    values: list[Value] = []
    """Values to try."""
    low: int | float | None = None
    """The least number."""
    high: int | float | None = None
    """The greatest number; only whole numbers are tried if both ends are whole."""
    log: bool = False
    """Try each order of magnitude equally often."""

    @model_validator(mode="after")
    def _either_values_or_two_ends(self) -> "Dimension":
        if bool(self.values) == (self.low is not None) or (self.low is None) != (self.high is None):
            raise ValueError(f"{self.key} needs either values, or low and high")
        if self.low is None or self.high is None:
            return self
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low={self.low:g} must be below high={self.high:g}, and above 0 with log=true")
        return self


class SweepConfig(BaseModel):
    """`lacewing sweep`: settings tried side by side, the worse trials stopped early."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    flow: Literal["pretrain", "delegate", "finetune"] = "pretrain"
    """The flow that every trial runs; what its settings have in common is made once."""
    stage: str = Field(default="pretrain", min_length=1)
    """The stage of it that decides: its metric counts, and it is what is stopped."""
    metric: str = Field(default="validation_loss", min_length=1)
    """Metric of that stage; a validation metric, if worse trials are to be stopped."""
    better: Literal["lower", "higher"] = "lower"
    """Which values of the metric are better."""
    space: list[Dimension] = []
    """What is tried, for example [{key:trainer.learning_rate,low:3e-3,high:3e-2,log:true}]."""
    trials: PositiveInt = 12
    """Settings to try, the stopped ones included."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """Stop a trial that is worse than the median of the others at the same step; give most trials few steps and the
    best ones more; or stop none."""
    startup_trials: NonNegativeInt = 4
    """The median is asked only after so many whole trials."""
    seed: NonNegativeInt = 0
    """Decides what is tried."""
    seeds: list[NonNegativeInt] = [0, 1, 2]
    """The best setting is run with each of these seeds, for an interval; empty: not at all."""
    seed_key: str = Field(default="trainer.seed", min_length=1)
    """The setting that takes the seeds."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Of the interval over the seeds."""

    @model_validator(mode="after")
    def _each_setting_is_varied_once(self) -> "SweepConfig":
        keys = [dimension.key for dimension in self.space]
        if len(set(keys)) < len(keys):
            raise ValueError(f"space holds a key twice: {', '.join(keys)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must each be there once; given {self.seeds}")
        if self.seeds and self.seed_key in keys:
            raise ValueError(f"{self.seed_key} is tried by space and varied by seeds: take it out of one of them")
        return self


class Trial(BaseModel):
    """One setting and what came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    number: int
    settings: dict[str, Value]
    state: Literal["complete", "stopped", "failed"]
    value: float | None
    """The metric: at the end, or where the trial was stopped; ``None`` if it failed before it had any."""
    curve: dict[int, float]
    """The metric by the step of each validation."""


class SweepReportConfig(BaseModel):
    """What the report of a sweep reads: its trials are its settings, so equal trials are an equal report."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metric: str
    better: Literal["lower", "higher"]
    confidence: float
    trials: list[Trial]
    seeds: dict[int, float]
    """The metric of the best setting by seed."""

    @property
    def best(self) -> Trial:
        """The best whole trial; of equal ones the first."""
        sign = 1 if self.better == "lower" else -1
        whole = [trial for trial in self.trials if trial.state == "complete"]
        return min(whole, key=lambda trial: sign * (trial.value if trial.value is not None else float("nan")))
