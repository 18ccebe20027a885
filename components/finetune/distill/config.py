"""Settings of distillation. Imports neither torch nor numpy: the flow process reads it too."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from components.cascade.config import Redact
from components.core.neutral import Neutral
from components.data.sources import is_url
from components.model.adapters.config import AdapterConfig
from components.model.config import ModelConfig
from components.training.config import TrainerConfig


class DistillObjectiveConfig(BaseModel):
    """What the student learns from its teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    divergence: Literal["forward", "reverse", "js"] = "forward"
    """forward, KL(teacher || student), covers all that the teacher expects; reverse, KL(student || teacher), avoids
    what it does not; js is the generalised Jensen-Shannon divergence between them (arXiv:2306.13649)."""
    js_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the teacher in the mixture that js compares both with."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Share of the divergence in the loss; the rest is the cross-entropy of the text."""
    temperature: PositiveFloat = 1.0
    """Above 1, what the teacher expects less counts for more. Applied to the top tokens and the rest as one."""
    least_confidence: float = Field(default=0.0, ge=0, le=1)
    """Take the teacher's word only where its top tokens hold at least this much probability; elsewhere the text alone
    teaches."""
    need: float = Field(default=1.0, gt=0, le=1)
    """Share of the tokens of a micro-batch that learn from the teacher: those on which the student differs most."""


class WriteSettings(BaseModel):
    """What a teacher is asked to write, and how. Another value asks again, for all texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    prompts: PositiveInt = 1_000
    """How many texts are asked for. Each goes on from the beginning of a training document; where there are fewer
    documents, several do."""
    prompt_tokens: PositiveInt = 16
    """Length of a beginning, which ends with a whole word."""
    max_tokens: PositiveInt = 200
    """Longest text in tokens of the teacher; of one that is longer, the last sentence is left out."""
    temperature: float = Field(default=1.0, ge=0, le=2)
    """1 draws what the teacher expects, 0 always takes the likeliest."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the likeliest tokens that together have this probability."""
    seed: NonNegativeInt = 0
    """Decides which documents, and what is drawn. Answers that are there are never asked for again: another seed asks
    anew."""
    texts_at_once: PositiveInt = 16
    """Texts in one request. An interruption loses no more than these."""
    logprobs: bool = True
    """Ask a server how likely its words were; some refuse that."""
    redact: Annotated[Redact, Neutral("auto")] = "auto"
    """Replace secrets and personal data in the beginnings that a server is sent, as `cascade.helper.redact` does; where
    they come back in its text, they stand there again. auto: if the server is on another machine."""
    timeout_seconds: PositiveFloat = 600.0
    """How long a server may take for one request."""
    retries: NonNegativeInt = 4
    """Retries of a request that failed, with ever longer pauses; not of one that was refused."""


class ChoiceConfig(BaseModel):
    """Which of the written texts the student learns from."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    least_confidence: float = Field(default=0.0, ge=0, le=1)
    """Leave out texts whose tokens had less than this probability for the teacher, on (geometric) average."""
    need: float = Field(default=1.0, gt=0, le=1)
    """Share of these texts that is kept: those whose tokens the base expects least, on average."""


class DistillConfig(BaseModel):
    """The section `finetune.distill`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    text: Literal["corpus", "written"] = "corpus"
    """What the student reads: the text of the data, about which the teacher is asked token by token; or text that the
    teacher has written, for which it may have another tokenizer and be anywhere."""
    teacher: str = ""
    """A registered model (`champion`, a version, NAME@ALIAS) or the folder of one, with the tokenizer of the data. With
    text=written, any folder that `evaluate.model` takes, or a server: http://127.0.0.1:8000/v1, or with the name of its
    model, http://127.0.0.1:8000/v1#NAME. A key for it is read from LACEWING_TEACHER_API_KEY."""
    write: WriteSettings = WriteSettings()
    """What the teacher is asked to write; for text=written."""
    choose: ChoiceConfig = ChoiceConfig()
    """Which of these texts are learnt; for text=written. `finetune.replay` says how much of the corpus stands beside
    them."""
    top_k: PositiveInt = 8
    """The likeliest tokens of the teacher that are kept for every token of the text; the others are one rest."""
    start: Literal["base", "scratch"] = "base"
    """Train the base further, or a new model of the shape in `model`: distillation in pretraining."""
    objective: DistillObjectiveConfig = DistillObjectiveConfig()
    """What the student learns from it."""

    @model_validator(mode="after")
    def _fits_the_text(self) -> "DistillConfig":
        if self.text == "corpus" and is_url(self.teacher):
            raise ValueError(
                f"finetune.distill.teacher={self.teacher} is a server, which does not tell all that it expects: learn "
                "from what it writes, with finetune.distill.text=written, or give a folder or a registered model"
            )
        if self.text == "written" and self.objective != DistillObjectiveConfig():
            raise ValueError(
                "finetune.distill.objective compares a student with what its teacher expects of every token, and has "
                "no effect with finetune.distill.text=written: leave it out; finetune.distill.choose chooses texts"
            )
        return self


class TeachConfig(BaseModel):
    """What the stage `teach` reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    teacher: str = ""
    """Folder of the teacher."""
    top_k: PositiveInt = 8
    """Tokens that are kept."""
    context_length: PositiveInt = 256
    """Tokens that the teacher reads together: the student's windows."""
    batch_windows: PositiveInt = 8
    """Windows in one forward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where."""
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """In which arithmetic."""


class WriteConfig(BaseModel):
    """What the stage `write` reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    teacher: str = ""
    """Folder or address of the teacher; empty for one that is an input of the stage."""
    ask: WriteSettings = WriteSettings()
    """What it is asked."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where a teacher that is not served computes."""


class ChooseConfig(BaseModel):
    """What the stage `choose` reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    choice: ChoiceConfig = ChoiceConfig()
    """Which texts are kept."""
    replay: float = Field(default=0.5, ge=0, lt=1)
    """Share of the training text that is text of the corpus."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the base reads the texts."""


class DistillStageConfig(BaseModel):
    """What the stage `distill` reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: ModelConfig = ModelConfig()
    """Shape of a student that starts from scratch."""
    trainer: TrainerConfig = TrainerConfig()
    """The training loop."""
    objective: DistillObjectiveConfig = DistillObjectiveConfig()
    """What the student learns from its teacher."""
    adapter: AdapterConfig = AdapterConfig()
    """Whether all weights of the base are trained, or an adapter."""
