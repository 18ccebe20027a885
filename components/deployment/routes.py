"""What the server answers: its health, the model it serves, completions and chat.

Routes are added to the application itself: FastAPI resolves those of a router only when a request comes, and whatever
lists the application's paths before would miss them.
"""

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from components.core.errors import ServiceError
from components.deployment import documentation, errors
from components.deployment.answering import Answering
from components.deployment.answers import Answer, EventStream, respond
from components.deployment.decoding import request_of
from components.deployment.intake import Intake, checked_route
from components.deployment.keys import Client
from components.deployment.metrics import Metrics
from components.deployment.protocol import (
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    ModelCard,
    ModelList,
    SamplingRequest,
)
from components.deployment.responses import ChatBuilder, CompletionBuilder, ResponseBuilder


def add_health(app: FastAPI, engine: Answering, served: str) -> None:
    """For whoever runs the server."""

    @app.get("/health", responses=documentation.health())
    async def health() -> JSONResponse:
        """200 while requests can be answered."""
        if not engine.running:
            raise ServiceError("requests are no longer answered")
        return JSONResponse({"status": "ok", "model": served})


def add_models(app: FastAPI, engine: Answering, served: str, started: float) -> None:
    """The one model under the name ``served``, and its adapters; loaded at ``started``, in seconds since 1970."""
    card = ModelCard(
        id=served,
        created=int(started),
        owned_by="lacewing",
        context_length=engine.context_length,
        parameters=engine.manifest.parameters,
        presence_penalty=engine.presence_penalty,
        helper=_helper_name(engine),
        call_budget=engine.call_budget if engine.helper is not None else None,
    )
    names = _adapters(served, engine)
    cards = {served: card, **{name: card.model_copy(update={"id": name, "parent": served}) for name in names}}

    @app.get("/v1/models", responses=documentation.errors(401, 403, 429))
    async def models() -> ModelList:
        """The one model that is served, alone and with each of its adapters."""
        return ModelList(data=list(cards.values()))

    @app.get("/v1/models/{name:path}", responses=documentation.errors(401, 403, 404, 429))
    async def model(name: str) -> ModelCard:
        """The model called ``name``."""
        _chosen(name, served, engine)
        return cards[name or served]


def add_generation(app: FastAPI, engine: Answering, served: str, metrics: Metrics, intake: Intake) -> None:
    """Completions and chat."""

    async def completions(body: CompletionRequest, http: HttpRequest) -> Response:
        """Continue each prompt."""
        adapter = _check(body, served, engine)
        requests = [
            request_of(body, prompt, body.max_tokens, body.logprobs, body.echo, adapter)
            for prompt in await intake.prompts(body.prompts)
        ]
        builder = CompletionBuilder(
            body.model or served, engine.tokenizer, body.logprobs is not None, _helper_name(engine), body.pieces
        )
        return await _answer(http, body, Answer(engine, metrics, requests, _client(http)), builder)

    async def chat_completions(body: ChatRequest, http: HttpRequest) -> Response:
        """Write the assistant's next message."""
        adapter = _check(body, served, engine)
        request = request_of(
            body,
            await intake.chat(body.turns),
            max_tokens=body.max_completion_tokens or body.max_tokens,
            logprobs=body.top_logprobs if body.logprobs else None,
            adapter=adapter,
        )
        builder = ChatBuilder(body.model or served, engine.tokenizer, body.logprobs, _helper_name(engine), body.pieces)
        return await _answer(http, body, Answer(engine, metrics, [request], _client(http)), builder)

    for path, endpoint, whole, chunk in (
        ("/v1/completions", completions, Completion, Completion),
        ("/v1/chat/completions", chat_completions, ChatCompletion, ChatChunk),
    ):
        app.router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            responses=documentation.generated(whole, chunk),
            route_class_override=checked_route(intake),
        )


async def _answer(http: HttpRequest, body: SamplingRequest, answer: Answer, builder: ResponseBuilder) -> Response:
    return EventStream(answer, builder, body.include_usage) if body.stream else await respond(http, answer, builder)


def _client(http: HttpRequest) -> Client | None:
    """Whose key the request has; ``None`` if the server asks for none."""
    return getattr(http.state, "client", None)


def _adapters(served: str, engine: Answering) -> dict[str, str]:
    """The served adapters by the names that clients give them."""
    return {f"{served}:{adapter}": adapter for adapter in engine.adapters}


def _chosen(name: str, served: str, engine: Answering) -> str:
    """The adapter that a request for the model ``name`` means; empty for the model alone."""
    adapters = _adapters(served, engine)
    if name in ("", served):
        return ""
    if name not in adapters:
        known = ", ".join(map(repr, (served, *adapters)))
        raise errors.UnknownModelError(f"the model {name!r} is not served here; this server has {known}")
    return adapters[name]


def _check(body: SamplingRequest, served: str, engine: Answering) -> str:
    """Refuse requests for another model, and calls and pieces if there is no helper; which adapter is asked for."""
    adapter = _chosen(body.model, served, engine)
    if engine.helper is None and body.call_limit is not None:
        raise errors.NoHelperError(*body.call_limit)
    if engine.helper is None and body.pieces:
        raise errors.NoHelperError("pieces", True)
    return adapter


def _helper_name(engine: Answering) -> str | None:
    return engine.helper.name if engine.helper is not None else None
