"""Settings of the bundle, of the server, and of the smoke test that asks it one question.

Imports neither torch nor numpy: the flow's process reads these classes and must stay light.
"""

import json
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    field_validator,
    model_validator,
)

from components.cascade.config import CascadeConfig
from components.core.neutral import Neutral

LogFormat = Literal["auto", "text", "json"]

# Environment variable; if it is set, the server asks for this key on ``/v1/``.
API_KEY = "LACEWING_API_KEY"
AdapterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


class BundleConfig(BaseModel):
    """The name of the bundle, and how it is served; everything else in it follows from its inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field("lacewing", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name in the manifest: letters, digits, dot, dash and underscore."""
    presence_penalty: Annotated[float, Neutral(0.0)] = Field(1.0, ge=-2.0, le=2.0)
    """Against loops: taken off the logit of each token that the answer holds already, where a request does not set its
    own. 0 turns it off. It changes which tokens are chosen, greedily too, and no probability that is reported."""


class BundleStageConfig(BundleConfig):
    """What the stage `bundle` reads: the bundle's own settings, and the project's section `cascade`."""

    cascade: CascadeConfig = CascadeConfig()
    """Which helper the served model asks, and how often."""


class ListenConfig(BaseModel):
    """What is answered for, at which address, for whom and within which limits."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str = Field("champion", min_length=1)
    """Alias or version of the registered model; also the ``model`` that clients name."""
    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on. Loopback reaches this machine only; another needs keys, or LACEWING_API_KEY."""
    keys: str = ""
    """JSON file of the keys that may use the server, with limits of requests and tokens per minute for each. The key
    in LACEWING_API_KEY is one more, without limits."""
    allowed_hosts: list[str] = []
    """Further names under which clients may address the server, beside loopback and ``host``; ``*`` allows all.
    Other names are refused, because a web page could use one to read a server on loopback (DNS rebinding)."""
    port: int = Field(8000, ge=0, le=65535)
    """TCP port; 0 lets the operating system choose a free one."""
    max_concurrent_requests: PositiveInt = 8
    """Prompts decoded together; each has its own key-value cache."""
    max_queued_requests: PositiveInt = 64
    """Prompts that may wait; if there are more, the server answers 503."""
    max_body_bytes: PositiveInt = 4_000_000
    """Largest accepted request body."""
    client_timeout_seconds: PositiveInt = 60
    """How long a client may take to send its headers, to send its body, and to read what was sent."""
    call_budget: float | None = Field(None, ge=0.0, le=1.0)
    """Share of the small model's decisions that become calls, instead of the bundle's; a request may set its own.
    0 serves the small model alone and opens no helper."""
    helper_required: bool = True
    """Whether the server refuses to start without the helper of its model. If false, it answers without the helper,
    marks the answers as degraded, and uses the helper as soon as it is available."""
    price_per_call: NonNegativeFloat = 0.0
    """Price of one call to the helper, in any currency. ``usage`` then has ``price``, and the page at ``/`` shows what
    an answer cost."""
    log: LogFormat = "auto"
    """One line for each request on standard error, without what was asked and answered: ``text`` for people, ``json``
    for machines, ``auto`` text on a terminal and JSON elsewhere."""
    shutdown_seconds: PositiveInt = 5
    """How long running requests may continue after the first SIGINT or SIGTERM; the others end with an error."""

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _separated_by_commas(cls, value: object) -> object:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class CanaryConfig(BaseModel):
    """When a version that answers a share of the requests is taken away from them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    canary: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the requests that the registry's `challenger` answers, on trial, where the server follows `champion`.
    Requests with the same header X-Request-Id are answered by the same version."""
    canary_requests: PositiveInt = 50
    """Answers of each version before their times are compared. Failures end a trial earlier if they are many."""
    canary_error_factor: float = Field(2.0, ge=1.0)
    """A trial ends when this many times the failures of the current version are exceeded, of which at least 1 % count
    as normal. A failure is an error of the server, or an answer with a failed call to the helper."""
    canary_latency_factor: float = Field(2.0, ge=1.0)
    """A trial ends when the time to the first piece of an answer, or the pause between two, is longer than this many
    times that of the current version, at the 95th percentile."""


class ServeConfig(CanaryConfig, ListenConfig):
    """The server: its model, its address and its limits."""

    watts: PositiveFloat | None = None
    """What this machine takes while it answers. ``usage`` then has ``estimated_joules`` instead of ``joules``, which
    the processor counts where it does and the server may look."""
    questions_at_once: PositiveInt = 1
    """Questions to the helper that may be under way at once for one request. With 1 the request waits for each reply.
    With more it goes on with a guess, which the reply confirms or takes back: the text is the same and comes sooner
    where the helper is far away, for up to as many calls again, which are discarded. 4 does most of it."""
    threads: NonNegativeInt = 0
    """CPU threads of the forward pass; 0 leaves one of the usable cores free, for what is sent and received: one less
    than there are, at least one. ``OMP_NUM_THREADS`` in the environment beats that."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to decode: ``auto`` takes the GPU if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers that the weights and the cache are held in. ``bfloat16`` halves what every token reads, which pays on a
    GPU, and for models above 10m on a CPU with AVX512-BF16 or AMX; probabilities then have two or three digits, those
    of calls too."""
    adapters: dict[AdapterName, str] = {}
    """Adapters that requests may name, as in `champion:support` for adapters={support: FOLDER}. Each folder is an
    artifact of finetuning, or an adapter of the served weights in PEFT's format. All answer in one batch."""
    calibrations: dict[AdapterName, str] = {}
    """Of adapters that call at other scores than the model alone: for each name an artifact of the stage calibrate, or
    its file. The others use the calibration of the model."""

    @field_validator("adapters", "calibrations", mode="before")
    @classmethod
    def _as_json(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _calibrations_of_adapters(self) -> "ServeConfig":
        if unknown := sorted(self.calibrations.keys() - self.adapters.keys()):
            known = ", ".join(self.adapters) or "none"
            raise ValueError(f"calibrations has {unknown[0]!r}, which is no adapter; adapters has {known}")
        return self


class SmokeConfig(BaseModel):
    """One question to the real server process, asked plainly, as a stream, and with help where there is a helper."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    prompt: str = ""
    """Text to continue; empty: of the assessed questions and then the held-out texts, the first at which the model asks
    its helper; for a plain model, the first question that it answered right."""
    max_tokens: PositiveInt = 24
    """Longest answer."""
    timeout_seconds: PositiveFloat = 120.0
    """How long the server may take to load the model, and again to answer."""
    threads: NonNegativeInt = 0
    """CPU threads of the server; 0 leaves the choice to it."""
