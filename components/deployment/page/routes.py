"""The page's files and ``/v1/about``, which tells the page what the model card has no place for.

The files need no key; everything that they show comes from ``/v1/``, which does.
"""

from importlib import resources

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from components.deployment import documentation
from components.deployment.registry_state import RegistryNote
from components.deployment.versions import Versions

INDEX = "index.html"
# Spelt out: a stage's code is known by the names of the files that it reads.
FILES = (INDEX, "answer.js", "api.js", "icon.svg", "page.css", "page.js")
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
# Scripts, styles and requests of this server only, nothing inline, no frame around the page. Trusted types make the
# browser refuse ``innerHTML`` and its like, so that text of a model can never become markup.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class About(BaseModel):
    """The served model, as the page shows it."""

    model: str
    """The name under which it is served."""
    name: str
    """The name of its bundle."""
    parameters: int
    context_length: int
    version: str
    """Its version in the registry; empty if it was served from a folder."""
    address: str
    """Page of that version in MLflow; empty if no server shows one."""
    bundle: str
    """Key of its bundle; empty for a folder that is no artifact."""
    data: str
    """Key of the data that it was trained on."""
    sources: list[str]
    """Where that data comes from."""
    helper: str | None
    """The helper that it asks; ``null`` if it answers alone."""
    call_budget: float
    """How often it asks where a request does not say otherwise."""
    call_score: str
    """What decides whether it asks: ``call``, its P(CALL), or a measure of its uncertainty."""
    price_per_call: float
    """Price of one call to the helper in the operator's currency; 0: not known."""
    prompts: list[str]
    """Texts to try."""
    canary: str
    """The version that answers some of the requests, on trial; empty if there is none."""
    registry: RegistryNote | None
    """What became of other versions that the registry wants; ``null`` if the server follows no registry."""


def add_page(app: FastAPI, versions: Versions, served: str, price_per_call: float) -> None:
    """``/``, its files under ``/page/``, and ``/v1/about``."""
    folder = resources.files(__package__)
    files = {name: (folder / name).read_bytes() for name in FILES}

    def answer(name: str) -> Response:
        content_type = f"{TYPES[name.rpartition('.')[2]]}; charset=utf-8"
        return Response(files[name], headers={**HEADERS, "Content-Type": content_type})

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        """The page."""
        return answer(INDEX)

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        """A file of the page."""
        if name not in files:
            raise HTTPException(404)
        return answer(name)

    @app.get("/v1/about", responses=documentation.errors(401, 403))
    async def described() -> About:
        """Where the served model comes from, and what to ask it."""
        return _about(versions, served, price_per_call)


def _about(versions: Versions, served: str, price_per_call: float) -> About:
    engine, origin, trial = versions.current.engine, versions.current.origin, versions.trial
    manifest = engine.manifest
    sources = manifest.data.details.get("sources", [])
    return About(
        model=served,
        name=manifest.name,
        parameters=manifest.parameters,
        context_length=engine.context_length,
        version=origin.version,
        address=origin.address,
        bundle=origin.key,
        data=manifest.data.key,
        sources=[str(source["source"] if isinstance(source, dict) else source) for source in sources],
        helper=engine.helper.name if engine.helper is not None else None,
        call_budget=engine.call_budget,
        call_score=manifest.delegation.call_score if manifest.delegation is not None else "call",
        price_per_call=price_per_call,
        prompts=list(origin.prompts),
        canary=trial.version.name if trial is not None else "",
        registry=versions.registry.note() if versions.registry is not None else None,
    )
