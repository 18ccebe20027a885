"""What people read of a registered model and of each version, in Markdown: what it is, how good, how to run it."""

from collections.abc import Mapping

from components.core.artifact import Artifact
from flows.workspace import artifacts_with_content

# Tags of a version that its description repeats.
VERDICT, REASON, CONFIG_DIGEST = "lacewing.gate", "lacewing.gate_reason", "lacewing.config_digest"

MODEL = """\
Small language models that know when to ask, made by Lacewing. Each version is a bundle: weights, tokenizer, when to \
ask, and what the helper needs to answer. **champion** is the version that passed the gate and is served; \
**challenger** is the one that was registered last.

- Serve it with the OpenAI API: `lacewing serve model=champion`
- Load it in Python: `mlflow.pyfunc.load_model("models:/{name}@champion")`
- Go back to the champion before: `lacewing rollback`
"""


def model_card(name: str) -> str:
    """The description of the registered model ``name``."""
    return MODEL.format(name=name)


def version_card(name: str, number: int, bundle: Artifact, tags: Mapping[str, str]) -> str:
    """The description of version ``number``, which is ``bundle``; ``tags`` hold the verdict of the gate."""
    rows = [*_figures(bundle), *_verdict(tags)]
    table = ["| | |", "|---|---|", *(f"| {title} | {_cell(value)} |" for title, value in rows)] if rows else []
    return "\n".join([_what_it_is(bundle), "", *table, *([""] if table else []), *_how_to_run(name, number)])


def _what_it_is(bundle: Artifact) -> str:
    policy = bundle.details.get("delegation") or {"helper": "none"}
    line = f": {bundle.details['description']}." if bundle.details.get("description") else "."
    if policy["helper"] == "none":
        return f"A small language model without a helper{line}"
    asks = f"It asks its helper (`{policy['helper']}`) at {policy['budget']:.0%} of its decisions."
    return f"A small language model that knows when to ask{line} {asks}"


def _figures(bundle: Artifact) -> list[tuple[str, str]]:
    """The headline rows of everything that the bundle was made from, as far as this workspace holds it."""
    found: dict[str, Artifact] = {}
    wanted = list(bundle.record.identity.inputs.values())
    while wanted:
        new = [artifact for artifact in artifacts_with_content(wanted) if artifact.key not in found]
        found.update((artifact.key, artifact) for artifact in new)
        wanted = [content for artifact in new for content in artifact.record.identity.inputs.values()]
    in_order = sorted(found.values(), key=lambda artifact: artifact.record.created)
    return [row for artifact in in_order for row in artifact.record.rows]


def _verdict(tags: Mapping[str, str]) -> list[tuple[str, str]]:
    rows = []
    if VERDICT in tags:
        rows.append(("gate", f"**{tags[VERDICT]}**: {tags[REASON]}"))
    if CONFIG_DIGEST in tags:
        rows.append(("configuration", f"`{tags[CONFIG_DIGEST]}`"))
    return rows


def _how_to_run(name: str, number: int) -> list[str]:
    return [
        "Run it, with `MLFLOW_TRACKING_URI` set to this MLflow:",
        "",
        "```sh",
        f"lacewing serve model={number}                                  # an OpenAI endpoint",
        f"mlflow models serve -m models:/{name}/{number} --env-manager local  # POST /invocations",
        "```",
    ]


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")
