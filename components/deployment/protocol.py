"""OpenAI's requests and responses as far as this server supports them, and what a cascade adds.

Requests are strict: a parameter that would be ignored is refused, unless it has its neutral value. ``null`` means "not
given", as clients send it. Reference: https://platform.openai.com/docs/api-reference/completions and .../chat.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

Prompt = str | list[int]
Prompts = str | list[str] | list[int] | list[list[int]]
FinishReason = Literal["stop", "length"]
Author = Literal["small", "helper"]

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
MAX_LOGPROBS = 20
MAX_STOPS = 16
# More than any request has; naming thousands of unknown ones would take a second.
MAX_PARAMETERS = 100


def _neutral(advice: str, *allowed: object) -> AfterValidator:
    """Accept a parameter only with a value that changes nothing."""
    words = {"allowed": " or ".join(map(repr, allowed)), "advice": advice}

    def check(value: object) -> object:
        if value not in allowed:
            raise PydanticCustomError("unsupported", "only {allowed} is supported; {advice}", words)
        return value

    return AfterValidator(check)


def _encodable(text: str) -> str:
    """JSON can spell half a surrogate pair (``"\\ud800"``); that is no text and has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("not_text", "holds half a surrogate pair, which is no valid text") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]


def _prompts(value: object) -> object:
    """Name what is wrong with a prompt in one sentence; the union's own report would have four, each as long as it."""
    shapes = "a text, a list of texts, a list of token ids or a list of such lists"
    if isinstance(value, str):
        return _encodable(value)
    if not isinstance(value, list):
        raise PydanticCustomError("prompt_type", "must be " + shapes)
    kinds = {type(item) for item in value}
    if len(kinds) > 1 or not kinds <= {str, int, list}:
        raise PydanticCustomError("prompt_type", "must be " + shapes + ", not a mixture")
    if kinds == {list} and any(type(id) is not int for ids in value for id in ids):
        raise PydanticCustomError("prompt_type", "token ids must be integers")
    return [_encodable(item) if isinstance(item, str) else item for item in value]


def _stops(value: object) -> object:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise PydanticCustomError("stop", "must be a text or a list of texts, none of them empty")
    return [_encodable(stop) for stop in stops]


def _parts(value: object) -> object:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if len(given) > MAX_PARAMETERS:
            raise PydanticCustomError(
                "parameters",
                "{count} parameters were given; at most {most} are allowed",
                {"count": len(given), "most": MAX_PARAMETERS},
            )
        return {name: value for name, value in given.items() if value is not None}


class StreamOptions(_Request):
    """``include_usage`` adds one last chunk that counts the tokens."""

    include_usage: bool = False
    include_obfuscation: Annotated[bool, _neutral("chunks are sent as they are", False)] = False


class TextFormat(_Request):
    """Any text."""

    type: Literal["text"] = "text"


class JsonObjectFormat(_Request):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(_Request):
    """A JSON schema. ``strict`` changes nothing: it is always followed."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[\w-]+$")
    json_schema: dict[str, Any] = Field(alias="schema")
    description: str = ""
    strict: bool = False


class JsonSchemaFormat(_Request):
    """JSON that a schema describes."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class SamplingRequest(_Request):
    """What both endpoints share."""

    model: str = ""  # empty: whatever is served here
    temperature: float = Field(1.0, ge=0.0, le=2.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[str], BeforeValidator(_stops, json_schema_input_type=str | list[str]), Field(max_length=MAX_STOPS)
    ] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, _neutral("send several prompts or several requests", 1)] = 1
    presence_penalty: float | None = Field(None, ge=-2.0, le=2.0)  # absent: the served model's own
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    logit_bias: Annotated[dict[str, float], _neutral("leave it out", {})] = {}
    response_format: ResponseFormat = TextFormat()
    user: str = ""  # accepted and not used: it does not change the answer
    # Not OpenAI's, but what many servers call by these names.
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0.0, le=1.0)
    repetition_penalty: float = Field(1.0, ge=0.1, le=10.0)
    # Nobody else's: how often the model may ask its helper.
    call_budget: float | None = Field(None, ge=0.0, le=1.0)
    max_calls: int | None = Field(None, ge=0)
    pieces: bool = Field(
        False,
        description="Not OpenAI's: each choice of a stream then has `pieces`, what single decisions wrote: text, "
        "tokens, author, call_probability, call, seconds, helper_seconds. Only with stream=true and a model that has a "
        "helper.",
    )

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> "SamplingRequest":
        if self.include_usage and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options is only allowed with stream=true")
        if self.stop and self.schema_of_answer is not None:
            raise PydanticCustomError("stop", "stop cannot be given with a response_format: it would cut the JSON")
        if self.pieces and not self.stream:
            raise PydanticCustomError("pieces", "pieces is only allowed with stream=true; a whole answer has authors")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def schema_of_answer(self) -> Mapping[str, Any] | None:
        """What the answer must be; ``None``: any text."""
        if isinstance(self.response_format, JsonSchemaFormat):
            return self.response_format.json_schema.json_schema
        return ANY_OBJECT if isinstance(self.response_format, JsonObjectFormat) else None

    @property
    def call_limit(self) -> tuple[str, float] | None:
        """The parameter that asks for calls, with its value; ``None`` if none does."""
        given = {"call_budget": self.call_budget, "max_calls": self.max_calls}
        return next(((name, value) for name, value in given.items() if value), None)


class CompletionRequest(SamplingRequest):
    """``POST /v1/completions``."""

    prompt: Annotated[Prompts, PlainValidator(_prompts, json_schema_input_type=Prompts)]
    max_tokens: int = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False
    best_of: Annotated[int, _neutral("send several requests and choose", 1)] = 1
    suffix: Annotated[str, _neutral("this model only continues text", "")] = ""

    @model_validator(mode="after")
    def _echo_is_no_json(self) -> "CompletionRequest":
        if self.echo and self.schema_of_answer is not None:
            raise PydanticCustomError("echo", "echo cannot be given with a response_format: a prompt is no JSON")
        return self

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[id for id in self.prompt if isinstance(id, int)]]
        return [prompt for prompt in self.prompt if not isinstance(prompt, int)]


_NO_TOOLS = "this model calls no tools"
_TEXT_ONLY = "this model reads and writes plain text"
_NOT_STORED = "this server keeps nothing"


class TextPart(_Request):
    """One part of a message's content; this server reads text only."""

    type: Literal["text"]
    text: Text


class Message(_Request):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[TextPart], BeforeValidator(_parts, json_schema_input_type=str | list[TextPart])]
    name: str = ""  # accepted and not used: ChatML has no place for it
    tool_calls: Annotated[list[Any], _neutral(_NO_TOOLS, [])] = []

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content)


class ChatRequest(SamplingRequest):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    modalities: Annotated[list[str], _neutral(_TEXT_ONLY, ["text"])] = ["text"]
    tools: Annotated[list[Any], _neutral(_NO_TOOLS, [])] = []
    tool_choice: Annotated[str | dict[str, Any], _neutral(_NO_TOOLS, "none", "auto")] = "none"
    parallel_tool_calls: bool = True  # accepted and not used: there are no tools
    functions: Annotated[list[Any], _neutral(_NO_TOOLS, [])] = []
    function_call: Annotated[str | dict[str, Any], _neutral(_NO_TOOLS, "none", "auto")] = "none"
    store: Annotated[bool, _neutral(_NOT_STORED, False)] = False
    metadata: dict[str, str] = {}  # accepted and not used: it belongs to answers that are stored
    service_tier: Annotated[str, _neutral("all requests are treated alike", "auto", "default")] = "auto"
    reasoning_effort: Annotated[str, _neutral("this model does not reason before it answers", "none")] = "none"

    @field_validator("messages", mode="after")
    @classmethod
    def _something_is_said(cls, messages: list[Message]) -> list[Message]:
        if not any(message.text for message in messages):
            raise PydanticCustomError("empty_prompt", "all messages are empty; say something to the model")
        return messages

    @model_validator(mode="after")
    def _alternatives_need_logprobs(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs is only allowed with logprobs=true")
        return self

    @property
    def turns(self) -> list[dict[str, str]]:
        """Role and text of each message, in the roles that ChatML knows."""
        return [
            {"role": "system" if message.role == "developer" else message.role, "content": message.text}
            for message in self.messages
        ]


def _absent(value: object) -> bool:
    return value is None


class CompletionTokensDetails(BaseModel):
    """Who wrote the answer, and its cost. Small and helper tokens together are the completion tokens."""

    small_tokens: int
    helper_tokens: int
    decisions: int
    """Places where the small model chose between its own token and a call."""
    calls: int
    """Calls made, answered or not."""
    discarded_calls: int
    """Calls beyond these, made after a wrong guess at a reply (``questions_at_once``)."""
    failed_calls: int
    empty_calls: int
    """Calls to which the helper had nothing to add."""
    helper_model_tokens: int
    """Tokens that the helper itself generated, in its own tokenizer."""


class Usage(BaseModel):
    """Tokens read and written; the token that ends an answer counts as written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: CompletionTokensDetails | None = Field(None, exclude_if=_absent)
    """Of a cascade only."""
    price: float | None = Field(None, exclude_if=_absent)
    """Of the calls, in the currency of the server's ``price_per_call``; only of a cascade whose server has one."""
    joules: float | None = Field(None, exclude_if=_absent)
    """What the processor counted while this was answered, shared with what was answered at the same time; only where
    it counts and the server may look."""
    estimated_joules: float | None = Field(None, exclude_if=_absent)
    """The same for the ``watts`` that the server was told, instead of counted ones."""

    @classmethod
    def of(
        cls, prompt: int, completion: int, details: CompletionTokensDetails | None = None, **costs: float | None
    ) -> "Usage":
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            completion_tokens_details=details,
            **costs,
        )


class CascadeNote(BaseModel):
    """What a client of a cascade should know about an answer."""

    degraded: bool
    """Whether a call failed, so that the small model continued alone."""
    helper: str
    """Name of the helper."""


class AuthorSpan(BaseModel):
    """Neighbouring characters of an answer by one author; all spans together are the answer.

    ``start`` and ``end`` count Unicode code points of the returned text, an echoed prompt included.
    """

    author: Author
    start: int
    end: int
    text: str


class Piece(BaseModel):
    """What one decision of the small model wrote: a token of its own, or the helper's reply.

    Pieces come in streams, if the request has ``pieces``. Their texts joined are the answer, an echoed prompt left out.
    """

    text: str
    """Empty for a token that completes no character, and for the token that ends an answer."""
    tokens: int
    """Tokens that it has, in the small model's tokenizer."""
    author: Author
    call_probability: float
    """How strongly the small model asked for help here."""
    call: Literal["none", "answered", "empty", "failed"]
    """Whether it asked, and what came of it; after ``empty`` and ``failed`` it goes on with its own token."""
    seconds: float
    """Time of this decision, including the helper's answer."""
    helper_seconds: float
    """Of these, the time that it waited for the helper."""


class CompletionLogprobs(BaseModel):
    """Parallel lists, one entry per token of ``text``.

    The first token of a prompt has no probability (``null``), nor have the further tokens of a helper's reply: the
    small model was not asked about them. The last three lists are a cascade's; ``null`` in them is a prompt's token.
    """

    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []
    text_offset: list[int] = []
    authors: list[Author | None] | None = Field(None, exclude_if=_absent)
    call_probabilities: list[float | None] | None = Field(None, exclude_if=_absent)
    seconds: list[float | None] | None = Field(None, exclude_if=_absent)


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None
    authors: list[AuthorSpan] | None = Field(None, exclude_if=_absent)
    """Of a cascade only: who wrote which characters; in a stream on the chunk that ends the choice."""
    pieces: list[Piece] | None = Field(None, exclude_if=_absent)
    """Of a stream that asked for them."""


class Completion(BaseModel):
    """An answer, or with ``stream=true`` a part of it: OpenAI gives both the same shape."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    """The version of the model that answers: its name, and the key of its bundle."""
    choices: list[CompletionChoice]
    usage: Usage | None = None
    cascade: CascadeNote | None = Field(None, exclude_if=_absent)
    """Of a cascade only; in a stream on the chunk that ends a choice."""


class TokenLogprob(BaseModel):
    token: str
    logprob: float | None
    """``null`` for the further tokens of a helper's reply: the small model was not asked about them."""
    bytes: list[int]


class ChatTokenLogprob(TokenLogprob):
    top_logprobs: list[TokenLogprob]
    author: Author | None = Field(None, exclude_if=_absent)
    call_probability: float | None = Field(None, exclude_if=_absent)
    seconds: float | None = Field(None, exclude_if=_absent)


class ChatLogprobs(BaseModel):
    content: list[ChatTokenLogprob]


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    index: Literal[0] = 0
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason
    authors: list[AuthorSpan] | None = Field(None, exclude_if=_absent)
    """Of a cascade only: who wrote which characters."""


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    cascade: CascadeNote | None = Field(None, exclude_if=_absent)
    """Of a cascade only."""


class ChatDelta(BaseModel):
    """What a chunk adds; the first one names the role, the last one adds nothing."""

    role: Literal["assistant"] | None = Field(None, exclude_if=lambda role: role is None)
    content: str | None = Field(None, exclude_if=lambda content: content is None)


class ChatChunkChoice(BaseModel):
    index: Literal[0] = 0
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    authors: list[AuthorSpan] | None = Field(None, exclude_if=_absent)
    """Of a cascade only: who wrote which characters; in a stream on the chunk that ends the choice."""
    pieces: list[Piece] | None = Field(None, exclude_if=_absent)
    """Of a stream that asked for them."""


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    cascade: CascadeNote | None = Field(None, exclude_if=_absent)
    """Of a cascade only, on the chunk that ends the answer."""


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    context_length: int
    parameters: int
    presence_penalty: float
    """Against loops, where a request does not say otherwise."""
    helper: str | None = Field(None, exclude_if=_absent)
    """The helper that a cascade asks."""
    call_budget: float | None = Field(None, exclude_if=_absent)
    """How often it asks where a request does not say otherwise."""
    parent: str | None = Field(None, exclude_if=_absent)
    """Of an adapter: the model that it belongs to."""


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: Sequence[ModelCard]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """Every answer that is not 2xx has this body."""

    error: ErrorDetail
