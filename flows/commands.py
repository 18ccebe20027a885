"""The commands that are not flows. Nothing heavy is imported before one is called."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from components.core.errors import InputError
from conf.nearest import did_you_mean
from flows.options import check_options
from flows.workspace import make_workspace

if TYPE_CHECKING:
    from conf.schema import ProjectConfig
    from flows.adapters.mlflow_registry import Version
    from flows.lineage import Origin
    from flows.promotion import Registry

REASON = "--reason"
JSON = "--json"
_DOCTOR_HELP = """\
  --json       print the findings for programs: check, state, found and remedy of each

It looks at what the given settings would use: every setting of a flow is allowed, such as data.sources=[...].
The exit code is 1 if there is a fault, else 0, also with warnings."""


class Command(NamedTuple):
    """The summary of a command, and its function, which returns the exit code."""

    summary: str
    run: Callable[[list[str]], int]


def split_preset(overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Take ``experiment=NAME`` out of the overrides: it is the preset, the other field of the Prefect form."""
    from conf.compose import DEFAULT_PRESET

    named = [override.partition("=")[2] for override in overrides if override.startswith("experiment=")]
    rest = [override for override in overrides if not override.startswith("experiment=")]
    return (named[-1] if named else DEFAULT_PRESET), rest


def command_help(name: str) -> str:
    """What the command does, and every key it takes with its meaning and default."""
    from conf.help import schema_help
    from conf.schema import ExportCommandConfig, GatewayCommandConfig, ProjectConfig, ServeCommandConfig, UpConfig

    match name:
        case "serve":
            keys = schema_help(ServeCommandConfig)
        case "gateway":
            keys = schema_help(GatewayCommandConfig)
        case "export":
            keys = schema_help(ExportCommandConfig)
        case "up":
            keys = schema_help(UpConfig)
        case "completion":
            keys = ""
        case "doctor":
            keys = f"{_DOCTOR_HELP}\n\n{schema_help(ProjectConfig, only=('tracking', 'versioning', 'label'))}"
        case _:
            keys = schema_help(ProjectConfig, only=("tracking", "versioning"))
    return f"lacewing {name}: {COMMANDS[name].summary}\n\n{keys}"


def _composed(arguments: list[str]) -> "ProjectConfig":
    from conf.compose import compose_project

    return compose_project(*split_preset(arguments))


def _serve(arguments: list[str]) -> int:
    from conf.compose import compose_section
    from conf.schema import ServeCommandConfig
    from flows.serve import serve

    return serve(compose_section(ServeCommandConfig, arguments))


def _gateway(arguments: list[str]) -> int:
    from conf.compose import compose_section
    from conf.schema import GatewayCommandConfig
    from flows.gateway import gateway

    return gateway(compose_section(GatewayCommandConfig, arguments))


def _export(arguments: list[str]) -> int:
    from conf.compose import compose_section
    from conf.schema import ExportCommandConfig
    from flows.export import export

    return export(compose_section(ExportCommandConfig, arguments))


def _up(arguments: list[str]) -> int:
    from conf.compose import compose_section
    from conf.schema import UpConfig
    from flows.up import up

    return up(compose_section(UpConfig, arguments))


def _rollback(arguments: list[str]) -> int:
    from flows import console
    from flows.promotion import Registry

    registry = Registry(_composed(arguments).tracking)
    make_workspace()
    console.show_table("rolled back", [("champion", str(registry.rollback()))])
    return 0


def _data(arguments: list[str]) -> int:
    from flows import console
    from flows.adapters import dvc

    verbs = [argument for argument in arguments if "=" not in argument]
    config = _composed([argument for argument in arguments if "=" in argument]).versioning
    make_workspace()
    match verbs:
        case ["list"]:
            console.show_table("versions", dvc.listed(config))
        case ["pull", reference]:
            artifact = dvc.pull(reference, config)
            console.show_table("pulled", [(artifact.stage, str(artifact.folder)), ("key", artifact.key)])
        case _:
            near = did_you_mean(next(iter(verbs), ""), ("list", "pull"))
            raise InputError(
                f"unknown: lacewing data {' '.join(verbs)}{near or ';'} Write `data list` or `data pull ARTIFACT`"
            )
    return 0


def _sync(arguments: list[str]) -> int:
    from flows import console
    from flows.sync import sync
    from flows.up import close_abandoned_runs

    config = _composed(arguments)
    closed = close_abandoned_runs()
    console.show_table("sync", [*closed, *sync(config.tracking, config.versioning)])
    return 0


def _accept(arguments: list[str]) -> int:
    from flows import console
    from flows.accept import accept

    check_options(arguments, (REASON, "--help"))
    words, reason = _without_reason(arguments)
    stages = [word for word in words if "=" not in word]
    if len(stages) != 1:
        raise InputError("name one stage: lacewing accept STAGE --reason '...' [key=value ...]")
    make_workspace()
    artifact = accept(stages[0], reason, *split_preset([word for word in words if "=" in word]))
    rows = [("folder", str(artifact.folder)), *(("accepted", str(each)) for each in artifact.record.accepted)]
    console.show_table(f"{artifact.stage} counts as current", rows)
    return 0


def _lineage(arguments: list[str]) -> int:
    import json

    from flows import console
    from flows.lineage import as_json
    from flows.lineage_page import tree

    check_options(arguments, (JSON, "--help"))
    _, version, origin = _with_lineage([word for word in arguments if word != JSON])
    if JSON in arguments:
        print(json.dumps({"version": version and version.number, **as_json(origin)}, indent=2))
    else:
        console.show(tree(origin, version))
    return 0


def _verify(arguments: list[str]) -> int:
    from flows import console
    from flows.verify import verified

    registry, version, origin = _with_lineage(arguments)
    rows = []
    for row in verified(registry, version, origin):
        console.say(f"{row[0]:<28} {row[1]}")
        rows.append(row)
    matching = len(rows) - len(origin.lost())
    what = (
        f"all {matching} match"
        if matching == len(rows)
        else f"{matching} of {len(rows)} match, the others are not here"
    )
    console.show_table("verified", [("model", str(version or arguments[0])), ("checked", what)])
    return 0


def _reproduce(arguments: list[str]) -> int:
    from pathlib import Path

    from flows import console
    from flows.reproduce import changed_packages, compared, rebuilt, weights_equal
    from flows.workspace import workspace_folder

    into = [word.partition("=")[2] for word in arguments if word.startswith("into=")]
    arguments = [word for word in arguments if not word.startswith("into=")]
    registry, version, origin = _with_lineage(arguments)
    if version is None or origin.artifact is None:
        raise InputError("reproduce builds a registered model again: name an alias such as champion, or a version")
    workspace = workspace_folder()
    beside = workspace.with_name(f"{workspace.name}-reproduced") / origin.artifact.key[:16]
    for change in changed_packages(origin):
        console.warn(f"not as it was when the model was made: {change}")
    settings = _composed([word for word in arguments if "=" in word]).versioning
    again = rebuilt(version, origin, Path(into[-1]).absolute() if into else beside, settings)
    rows = [(f"{each.made.stage} {each.made.key[:16]}", str(each)) for each in compared(origin, again)]
    equal = weights_equal(origin, again)
    rows.append(("weights", "bit-equal" if equal else "not bit-equal"))
    console.show_table(f"{registry.name} version {version.number}, built again", rows)
    return 0 if equal else 1


def _with_lineage(arguments: list[str]) -> "tuple[Registry, Version | None, Origin]":
    """The registry, the version that the words name (none: it is a folder), and what it was made from."""
    from flows.lineage import lineage
    from flows.named_models import is_version
    from flows.promotion import CHAMPION, Registry

    words = [word for word in arguments if "=" not in word]
    if len(words) > 1 or any(word.startswith("-") for word in words):
        raise InputError(f"{' '.join(words)}: name one model, by an alias such as champion, a version or a folder")
    reference = words[0] if words else CHAMPION
    registry = Registry(_composed([word for word in arguments if "=" in word]).tracking)
    bundle = registry.resolve(reference)
    return registry, registry.version(reference) if is_version(reference) else None, lineage(bundle)


def _without_reason(arguments: list[str]) -> tuple[list[str], str]:
    """The other arguments, and what follows ``--reason``."""
    if REASON in arguments:
        place = arguments.index(REASON)
        return arguments[:place] + arguments[place + 2 :], "".join(arguments[place + 1 : place + 2])
    given = [word for word in arguments if word.startswith(f"{REASON}=")]
    return [word for word in arguments if word not in given], "".join(given[-1:]).removeprefix(f"{REASON}=")


def _doctor(arguments: list[str]) -> int:
    from flows.doctor.examination import examine
    from flows.doctor.page import as_json, as_text

    check_options(arguments, (JSON, "--help"))
    findings = examine(lambda: _composed([word for word in arguments if word != JSON]))
    print(as_json(findings) if JSON in arguments else as_text(findings))
    return int(any(finding.state == "fault" for finding in findings.values()))


def _completion(arguments: list[str]) -> int:
    from flows.completion import script

    print(script(" ".join(arguments), {name: command.summary for name, command in COMMANDS.items()}), end="")
    return 0


COMMANDS = {
    "serve": Command("answer OpenAI requests from a registered model: model=champion port=8000", _serve),
    "gateway": Command("run the cascade before llama.cpp, vLLM or SGLang: upstream=http://127.0.0.1:8080/v1", _gateway),
    "export": Command("write a registered model for other engines: model=champion format=gguf", _export),
    "up": Command("start Prefect, MLflow and a worker on loopback, and print where they are", _up),
    "rollback": Command("return to the champion before this one", _rollback),
    "data": Command("data list | data pull ARTIFACT: versions of prepared data", _data),
    "accept": Command("accept STAGE --reason '...': let a result of older code or packages count as current", _accept),
    "lineage": Command("print what champion was made from, down to the raw bytes (--json for machines)", _lineage),
    "verify": Command("hash champion and all that it was made from again, and name what does not match", _verify),
    "reproduce": Command("build champion again in a new workspace: are the weights bit-equal?", _reproduce),
    "sync": Command("send to MLflow and DVC what could not be sent before", _sync),
    "doctor": Command("check this installation and workspace, and say how to mend what is wrong: [--json]", _doctor),
    "completion": Command("completion bash|zsh|fish: print a script that lets the TAB key complete", _completion),
}
