"""Settings of the cascade: when the small model calls, who answers, and how much comes back.

Imports neither torch nor numpy: the flow's process reads these classes and must stay light.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from components.core.neutral import Neutral

ReturnUnit = Literal["token", "word", "entity"]
CallScore = Literal["call", "entropy", "margin"]
# The last is for other engines only, which can follow no other: it is calibrated, and no setting.
CalibratedScore = CallScore | Literal["logit_margin"]
HelperKind = Literal["auto", "none", "world", "model", "endpoint", "retrieval", "calculator"]
Redact = Literal["auto", "on", "off"]

_SETTINGS = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class HelperConfig(BaseModel):
    """Who answers a call."""

    model_config = _SETTINGS

    kind: HelperKind = "auto"
    """auto: the fact table where the data is the closed world, else BM25 retrieval over the corpus. `model` is a local
    larger model, `endpoint` any OpenAI-compatible server, `calculator` completes `<<48/2=` exactly."""
    model: str = ""
    """kind=model: folder of the larger model and its tokenizer: a bundle, or one of Hugging Face's Llama family (llama,
    mistral, qwen2, qwen3), whose tokenizer may be another. For the latter, install lacewing[hub]."""
    url: str = ""
    """kind=endpoint: base URL, for example http://127.0.0.1:8001/v1. A key is read from LACEWING_HELPER_API_KEY."""
    name: str = ""
    """kind=endpoint: the model to ask for."""
    redact: Annotated[Redact, Neutral("auto")] = "auto"
    """kind=endpoint: replace secrets and personal data (keys, passwords, addresses of mail and networks, numbers of
    cards, accounts and phones) in what is sent. auto: if the server is on another machine."""
    library: Annotated[list[str], Neutral([])] = []
    """kind=retrieval: what to look up besides the text of the data, as in data.sources. The model need never have seen
    it: articles, manuals, your own notes."""
    corpus_megabytes: PositiveInt = 100
    """kind=retrieval: index at most this much text of the data, held-out text included, whole documents by a fixed
    shuffle; and at most as much of the library. The index is built in memory, about ten times the text."""
    timeout_seconds: PositiveFloat = 2.0
    """How long one answer may take before the small model continues alone."""
    retries: NonNegativeInt = 1
    """Retries after a failure, within the timeout."""
    failures_before_rest: PositiveInt = 3
    """Failures in a row after which no calls are made for a while (circuit breaker)."""
    rest_seconds: PositiveFloat = 30.0
    """How long no calls are made after that."""


class CascadeConfig(BaseModel):
    """How the small model and the helper answer together."""

    model_config = _SETTINGS

    helper: HelperConfig = HelperConfig()
    """Who answers a call."""
    budget: float = Field(0.15, ge=0.0, le=1.0)
    """Share of the small model's decisions that become calls; also the hard limit of a request."""
    rule: Literal["running_quantile", "fixed"] = "running_quantile"
    """Call at the running quantile of P(CALL), or at the threshold that calibration found."""
    least_call_probability: Annotated[float, Field(ge=0.0, le=1.0), Neutral(0.0)] = 0.0
    """Never call where P(CALL) is below this, even if the budget allows it: then the budget is a limit that need not be
    spent. 0.5 suits a model with delegation.normalisation=full that was taught exactly where to ask."""
    call_score: CallScore = "call"
    """What is compared with the threshold: P(CALL); or, for a model that never learned to call, the entropy of its
    prediction or one minus its largest probability (`margin`)."""
    unit: ReturnUnit = "word"
    """How much one call returns: one token of the helper, up to the end of a word, or of an entity."""
    max_unit_tokens: PositiveInt = 16
    """Longest return in tokens of the helper."""

    @property
    def least_score(self) -> float:
        """``least_call_probability`` as a bound on ``call_score``: entropy and margin have none."""
        return self.least_call_probability if self.call_score == "call" else 0.0

    @model_validator(mode="after")
    def _helper_is_complete(self) -> "CascadeConfig":
        if self.helper.kind == "model" and not self.helper.model:
            raise ValueError("helper.kind=model needs helper.model, the folder of the larger model")
        if self.helper.kind == "endpoint" and not self.helper.url.startswith(("http://", "https://")):
            raise ValueError(
                f"helper.kind=endpoint needs helper.url, such as http://127.0.0.1:8001/v1; given {self.helper.url!r}"
            )
        return self
