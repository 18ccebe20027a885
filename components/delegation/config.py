"""Settings of delegation: labels, selection and objective, calibration, and the cascade of small model and helper.

Imports neither torch nor numpy: the flow's process reads these classes and must stay light.
"""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from components.model.config import ModelConfig
from components.training.config import TrainerConfig

Annotator = Literal["world", "spacy", "capitals"]
RuleSet = Literal["ner_only", "pos_only", "ner+pos", "ner+pos+attr", "digits_only", "all", "none"]
SelectionName = Literal[
    "ntp",
    "loss",
    "fact",
    "random",
    "lacy",
    "rho_call",
    "rho_ignore",
    "judge",
    "ignore",
    "ignore_facts",
    "helper_gain",
    "defer",
]
SELECTIONS: tuple[SelectionName, ...] = get_args(SelectionName)
SELECTIONS_THAT_CALL: frozenset[SelectionName] = frozenset(SELECTIONS) - {"ntp", "rho_ignore", "ignore", "ignore_facts"}
"""The others leave tokens out, or learn all of them: nobody teaches them to call."""
ReturnUnit = Literal["token", "word", "entity"]
CallScore = Literal["call", "entropy", "margin"]
HelperKind = Literal["auto", "none", "world", "model", "endpoint", "retrieval"]

_SETTINGS = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LabelConfig(BaseModel):
    """Which tokens state facts: one bit per token, made once on the CPU."""

    model_config = _SETTINGS

    annotator: Literal["auto"] | Annotator = "auto"
    """auto takes the exact labels of the closed world where the data has them, else the spaCy pipeline if one is
    named, else the rule `capitals` (capitalised words and digits), and says which."""
    pipeline: str = ""
    """Any installed spaCy package or the path of a trained pipeline, for example en_core_web_sm."""
    rules: RuleSet = "ner+pos"
    """What of a parse counts as fact: entities, parts of speech, attributes (`ner+pos+attr`), or a control
    (`digits_only`, `all`, `none`)."""
    subwords: Literal["all", "first", "span_first"] = "all"
    """Which subwords of a factual word carry the bit: all, the first of each word, the first of each run of words."""
    skip_copied: bool = False
    """Leave out words that the document has stated before: copying needs no knowledge."""
    processes: NonNegativeInt = 0
    """Processes that annotate; 0 takes one per physical core."""
    yardstick_documents: NonNegativeInt = 200
    """Documents on which annotators are compared with each other, and with the exact labels where there are any."""


class DelegationConfig(BaseModel):
    """Which targets become `<CALL>`, and how much that counts."""

    model_config = _SETTINGS

    selection: SelectionName = "lacy"
    """Which tokens are delegated (or, for rho_ignore, ignore and ignore_facts, dropped from the loss). `ntp`: none."""
    normalisation: Literal["full", "exclude_call"] = "full"
    """Softmax of the tokens that are kept: `full` has <CALL> in the denominator, `exclude_call` leaves it out."""
    budget: float = Field(0.15, ge=0.0, le=1.0)
    """Share of the valid tokens of a batch to delegate; never more than the selection's candidates."""
    budget_of: Literal["tokens", "facts"] = "tokens"
    """`facts`: delegate the share `fraction_of_facts` of the factual tokens instead."""
    fraction_of_facts: float = Field(0.6, ge=0.0, le=1.0)
    """Share of factual tokens to delegate with budget_of=facts; and what `fact` draws at random."""
    warmup_fraction: float = Field(0.02, ge=0.0, lt=1.0)
    """Share of the steps that are plain next-token prediction first: an untrained model's ranking means nothing."""
    start: Literal["checkpoint", "scratch"] = "checkpoint"
    """`checkpoint` goes on from the pretrained model, `scratch` delegates from the first step of pretraining on."""
    max_steps: PositiveInt = 300
    """Optimizer steps of delegation training with start=checkpoint; scratch takes trainer.max_steps."""
    learning_rate: PositiveFloat = 1.5e-3
    """Peak learning rate with start=checkpoint; scratch takes trainer.learning_rate."""
    match: Literal["steps", "gradient_tokens"] = "steps"
    """What max_steps counts: optimizer steps, or as many tokens with a ground-truth gradient as that many steps of
    plain training have (delegating and ignoring methods then train longer)."""
    reference: str = ""
    """Model folder with the same tokenizer, for rho_call and rho_ignore: excess loss is measured against it. Empty:
    the model that training starts from."""


class CalibrateConfig(BaseModel):
    """From held-out text: the threshold on P(CALL) for a share of calls."""

    model_config = _SETTINGS

    max_tokens: PositiveInt = 100_000
    """Tokens of the validation split to look at."""
    batch_tokens: PositiveInt = 8_192
    """Tokens in one forward pass."""
    bins: int = Field(10, ge=2, le=100)
    """Bins of the reliability table."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """Arithmetic of the forward pass."""


class HelperConfig(BaseModel):
    """Who answers a call."""

    model_config = _SETTINGS

    kind: HelperKind = "auto"
    """auto: the fact table where the data is the closed world, else BM25 retrieval over the corpus. `model` is a local
    larger model, `endpoint` any OpenAI-compatible server."""
    model: str = ""
    """kind=model: folder of the larger model and its tokenizer (a bundle, or any Llama folder)."""
    url: str = ""
    """kind=endpoint: base URL, for example http://127.0.0.1:8001/v1. A key is read from LACEWING_HELPER_API_KEY."""
    name: str = ""
    """kind=endpoint: the model to ask for."""
    corpus_megabytes: PositiveInt = 100
    """kind=retrieval: index at most this much of the training text, whole documents by a fixed shuffle. The index is
    built in memory, about ten times the text."""
    timeout_seconds: PositiveFloat = 2.0
    """How long one answer may take before the small model goes on alone."""
    retries: NonNegativeInt = 1
    """Further tries after a failure, within the time-out."""
    failures_before_rest: PositiveInt = 3
    """After so many failures in a row the helper is left alone for a while (circuit breaker)."""
    rest_seconds: PositiveFloat = 30.0
    """How long it is left alone."""


class DelegateConfig(BaseModel):
    """What the stage `delegate` reads: `model`, `trainer` and `delegation` of the composed configuration."""

    model_config = _SETTINGS

    model: ModelConfig = ModelConfig()
    """Shape of the decoder."""
    trainer: TrainerConfig = TrainerConfig()
    """The loop; steps and learning rate as `delegation` has them."""
    delegation: DelegationConfig = DelegationConfig()
    """What is delegated."""
    helper: HelperConfig = HelperConfig()
    """Who will be asked: helper_gain and defer look at what it knows."""


class CascadeConfig(BaseModel):
    """How small model and helper answer together."""

    model_config = _SETTINGS

    helper: HelperConfig = HelperConfig()
    """Who answers a call."""
    budget: float = Field(0.15, ge=0.0, le=1.0)
    """Share of the small model's decisions that become calls; also the hard limit of a request."""
    rule: Literal["running_quantile", "fixed"] = "running_quantile"
    """Call at the running quantile of P(CALL), or at the threshold that calibration found."""
    call_score: CallScore = "call"
    """What is compared with the threshold: P(CALL); or, for a model that never learned to call, the entropy of its
    prediction or one minus its largest probability (`margin`)."""
    unit: ReturnUnit = "word"
    """How much one call returns: one token of the helper, up to the end of a word, or of an entity."""
    max_unit_tokens: PositiveInt = 16
    """Longest return in tokens of the helper."""

    @model_validator(mode="after")
    def _helper_is_complete(self) -> "CascadeConfig":
        if self.helper.kind == "model" and not self.helper.model:
            raise ValueError("helper.kind=model needs helper.model, the folder of the larger model")
        if self.helper.kind == "endpoint" and not self.helper.url.startswith(("http://", "https://")):
            raise ValueError(
                f"helper.kind=endpoint needs helper.url, such as http://127.0.0.1:8001/v1; given {self.helper.url!r}"
            )
        return self
