"""The reference of flows and commands in the docs, made from the catalogue: ``python -m flows.reference``."""

import inspect
from pathlib import Path

from components.core.atomic import write_text
from conf.compose import DEFAULT_PRESET, Preset, choices
from flows.catalogue import Flow, flows
from flows.commands import COMMANDS

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"

_HEAD = """\
# Flows and commands

Made from the catalogue by `make reference`; do not edit. `lacewing FLOW --help` lists every setting of a flow."""


def page() -> str:
    """The whole page, in markdown."""
    commands = [f"- `lacewing {name}`: {command.summary}" for name, command in COMMANDS.items()]
    parts = [_HEAD, "## Flows", *map(_flow, flows().values()), "## Commands", "\n".join(commands)]
    return "\n\n".join(parts) + "\n"


def _flow(entry: Flow) -> str:
    names = entry.deployments([preset.value for preset in Preset], DEFAULT_PRESET, choices)
    return (
        f"### lacewing {entry.name}\n\n{inspect.cleandoc(entry.description)}\n\n"
        f"{_words(entry)}- Example: `lacewing {entry.name} {entry.example}`\n"
        f"- In Prefect: {', '.join(f'`{name}`' for name in names)}"
    )


def _words(entry: Flow) -> str:
    return f"- Usage: `{entry.usage} [key=value ...]`; the words are `{entry.words}`\n" if entry.words else ""


if __name__ == "__main__":
    write_text(PAGE, page())
