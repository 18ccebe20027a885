"""What the server answers: its health, the model it serves, completions and chat.

Routes are added to the application itself: FastAPI resolves those of a router only when a request comes, and whatever
lists the application's paths before would miss them.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from components.core.errors import ServiceError
from components.deployment import documentation, errors
from components.deployment.answering import Answering
from components.deployment.answers import Answer, EventStream, respond
from components.deployment.checked_route import CheckedRoute
from components.deployment.costs import Costs
from components.deployment.decoding import Request, request_of
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
from components.deployment.request_log import record_of
from components.deployment.responses import ChatBuilder, CompletionBuilder, Signature
from components.deployment.versioned import version_of
from components.deployment.versions import Version, Versions


def add_health(app: FastAPI, versions: Versions, served: str) -> None:
    """For whoever runs the server."""

    @app.get("/health", responses=documentation.health())
    async def health() -> JSONResponse:
        """200 while requests can be answered, and by which version."""
        version = versions.current
        if not version.engine.running:
            raise ServiceError("requests are no longer answered")
        return JSONResponse({"status": "ok", "model": served, "version": version.name})


def add_models(app: FastAPI, served: str) -> None:
    """The one model under the name ``served``, and its adapters."""

    @app.get("/v1/models", responses=documentation.errors(401, 403, 429))
    async def models(http: HttpRequest) -> ModelList:
        """The one model that is served, alone and with each of its adapters."""
        return ModelList(data=list(_cards(version_of(http), served).values()))

    @app.get("/v1/models/{name:path}", responses=documentation.errors(401, 403, 404, 429))
    async def model(name: str, http: HttpRequest) -> ModelCard:
        """The model called ``name``."""
        version = version_of(http)
        _chosen(name, served, version.engine)
        return _cards(version, served)[name or served]


def _cards(version: Version, served: str) -> dict[str, ModelCard]:
    """The model and its adapters, by the names that clients give them."""
    engine = version.engine
    card = ModelCard(
        id=served,
        created=int(version.created),
        owned_by="lacewing",
        context_length=engine.context_length,
        parameters=engine.manifest.parameters,
        presence_penalty=engine.presence_penalty,
        helper=_helper_name(engine),
        call_budget=engine.call_budget if engine.helper is not None else None,
    )
    names = _adapters(served, engine)
    return {served: card, **{name: card.model_copy(update={"id": name, "parent": served}) for name in names}}


def add_generation(app: FastAPI, served: str, metrics: Metrics, costs: Costs) -> None:
    """Completions and chat."""

    async def completions(body: CompletionRequest, http: HttpRequest) -> Response:
        """Continue each prompt."""
        return await generated(body, http, partial(_completions, body), CompletionBuilder, body.logprobs is not None)

    async def chat_completions(body: ChatRequest, http: HttpRequest) -> Response:
        """Write the assistant's next message."""
        return await generated(body, http, partial(_chat, body), ChatBuilder, body.logprobs)

    async def generated(
        body: SamplingRequest,
        http: HttpRequest,
        requests: Callable[[Version, str], Awaitable[list[Request]]],
        builder: type[CompletionBuilder | ChatBuilder],
        scored: bool,
    ) -> Response:
        version = version_of(http)
        engine = version.engine
        adapter = _check(body, served, engine)
        record = record_of(http.scope)
        with metrics.versions.beginning(version):
            answer = Answer(version, metrics, await requests(version, adapter), record, costs, _client(http))
        signature = Signature(record.id, body.model or served, version.fingerprint)
        spelt = builder(signature, engine.tokenizer, scored, _helper_name(engine), body.pieces)
        return EventStream(answer, spelt, body.include_usage) if body.stream else await respond(http, answer, spelt)

    for path, endpoint, whole, chunk in (
        ("/v1/completions", completions, Completion, Completion),
        ("/v1/chat/completions", chat_completions, ChatCompletion, ChatChunk),
    ):
        app.router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            responses=documentation.generated(whole, chunk),
            route_class_override=CheckedRoute,
        )


async def _completions(body: CompletionRequest, version: Version, adapter: str) -> list[Request]:
    """What the engine is asked for, a request for each prompt."""
    guide = await version.intake.guide(body.schema_of_answer)
    return [
        request_of(
            body,
            prompt,
            max_tokens=body.max_tokens,
            logprobs=body.logprobs,
            echo=body.echo,
            guide=guide.another() if guide is not None else None,
            adapter=adapter,
        )
        for prompt in await version.intake.prompts(body.prompts)
    ]


async def _chat(body: ChatRequest, version: Version, adapter: str) -> list[Request]:
    """What the engine is asked for."""
    request = request_of(
        body,
        await version.intake.chat(body.turns),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=body.top_logprobs if body.logprobs else None,
        guide=await version.intake.guide(body.schema_of_answer),
        adapter=adapter,
    )
    return [request]


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
