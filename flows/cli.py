"""The command ``lacewing``. Imports nothing heavy until it knows what is wanted: ``--help`` answers at once."""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any

from components.core.errors import InputError, LacewingError

if TYPE_CHECKING:
    from conf.schema import ProjectConfig

FLOWS = {
    "pipeline": "raw text to a served, registered model: all of the below",
    "prepare": "sources to documents, tokenizer and packed shards",
    "pretrain": "train a decoder from scratch on the shards",
    "label": "mark the tokens that state facts",
    "delegate": "teach the model when to ask; threshold and worth of asking by call budget",
    "compare": "all ways of choosing what to ask, side by side over several seeds, in one table",
    "assess": "measure the model on held-out text, on one page",
    "release": "gate it against the champion, register it, try its server, promote it",
}
COMMANDS = {
    "serve": "answer OpenAI requests from a registered model: model=champion port=8000",
    "up": "start Prefect, MLflow and a worker on loopback, and print where they are",
    "rollback": "return to the champion before this one",
    "data": "data list | data pull ARTIFACT: versions of prepared data",
    "sync": "send MLflow and DVC what could not be sent before",
}
REFUSED = 3
INTERRUPTED = 130

HELP = f"""\
lacewing raises small language models that know when to ask.

usage: lacewing FLOW [key=value ...] [--dry-run] [--cfg job] [--multirun]
       lacewing COMMAND [key=value ...]

flows (each first brings up to date what comes before it)
{chr(10).join(f"  {name:<10} {text}" for name, text in FLOWS.items())}

commands
{chr(10).join(f"  {name:<10} {text}" for name, text in COMMANDS.items())}

options
  --help       this page; `lacewing FLOW --help` lists every key with its meaning and default
  --dry-run    say which stages would run and why, and run nothing
  --cfg job    print the composed configuration and run nothing
  --multirun   sweep: model=quick,10m trainer.seed=1,2,3 runs every combination
  --version    print the version

examples
  lacewing pipeline
  lacewing pipeline experiment=text data.sources='[articles/*.jsonl.gz]'
  lacewing pretrain model=10m trainer.max_steps=500 --dry-run
  lacewing serve model=champion

Results live in ./workspace, or where LACEWING_WORKSPACE says. Exit codes: 0 done, 2 bad input, {REFUSED} refused by the
gate, 4 damaged artifact, 5 disk full, 6 a service does not answer, 7 a stage was killed, {INTERRUPTED} interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(HELP)
        return 0
    if arguments[0] == "--version":
        print(f"lacewing {import_module('importlib.metadata').version('lacewing')}")
        return 0
    try:
        return _dispatch(arguments[0], arguments[1:])
    except LacewingError as error:
        from flows import console

        console.fail(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on from here", file=sys.stderr)
        return INTERRUPTED


def _dispatch(name: str, arguments: list[str]) -> int:
    if name in FLOWS:
        return _flow(name, arguments)
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}; flows: {', '.join(FLOWS)}; commands: {', '.join(COMMANDS)}")
    if "--help" in arguments or "-h" in arguments:
        print(_command_help(name))
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {
        "serve": _serve,
        "up": _up,
        "rollback": _rollback,
        "data": _data,
        "sync": _sync,
    }
    return commands[name](arguments)


def _flow(name: str, arguments: list[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        from conf.help import schema_help
        from conf.schema import ProjectConfig

        print(f"lacewing {name}: {FLOWS[name]}\n\n{schema_help(ProjectConfig)}")
        return 0
    dry = "--dry-run" in arguments
    arguments = [argument for argument in arguments if argument != "--dry-run"]
    if any(argument.startswith("-") for argument in arguments):
        return _hydra(name, arguments, dry)
    return _run(name, arguments, dry)


def _run(name: str, overrides: list[str], dry: bool) -> int:
    preset, overrides = split_preset(overrides)
    if dry:
        return _dry_run(name, preset, overrides)
    _compose(preset, overrides)  # a mistake is told at once, before Prefect has started
    from flows.up import use_running_server
    from flows.workspace import make_workspace

    make_workspace()
    use_running_server()
    end_in_order_on_sigterm()
    # Prefect's own lines go to its server; the terminal shows ours, and an error once.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    summary: dict[str, Any] = getattr(import_module(f"flows.{name}"), name)(preset=preset, overrides=overrides)
    release = summary["release"]
    return REFUSED if release and not release["promoted"] else 0


def end_in_order_on_sigterm() -> None:
    """Let SIGTERM end the process as an exception would, or Prefect's temporary server would outlive it."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def split_preset(overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Take ``experiment=NAME`` out of the overrides: it is the preset, the other field of the Prefect form."""
    from conf.compose import DEFAULT_PRESET

    named = [override.partition("=")[2] for override in overrides if override.startswith("experiment=")]
    rest = [override for override in overrides if not override.startswith("experiment=")]
    return (named[-1] if named else DEFAULT_PRESET), rest


def _compose(preset: str, overrides: list[str]) -> "ProjectConfig":
    from conf.compose import compose_project

    return compose_project(preset, overrides)


def _dry_run(name: str, preset: str, overrides: list[str]) -> int:
    # Prefect would like a home; a dry run makes no folders.
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")
    from flows.plan import plan

    plan(name, preset, overrides)
    return 0


def _hydra(name: str, arguments: list[str], dry: bool) -> int:
    """Hydra's own options (``--cfg``, ``--multirun``, ``--info``) by Hydra's own command line."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from conf.compose import CONF, register_defaults

    codes = [0]

    def job(_: object) -> None:
        overrides = list(HydraConfig.get().overrides.task)
        try:
            codes.append(_run(name, overrides, dry))
        except LacewingError as error:
            from flows import console

            console.fail(f"{' '.join(overrides)}: {error}")
            codes.append(error.exit_code)

    register_defaults()
    if not {"--multirun", "-m"} & set(arguments):
        preset, overrides = split_preset([word for word in arguments if "=" in word and not word.startswith("hydra")])
        _compose(preset, overrides)
    sys.argv = [f"lacewing {name}", *arguments]
    hydra.main(config_path=str(CONF), config_name="flow", version_base="1.3")(job)()
    return max(codes)


def _serve(arguments: list[str]) -> int:
    from conf.compose import compose_section
    from conf.schema import ServeCommandConfig
    from flows.serve import serve

    return serve(compose_section(ServeCommandConfig, arguments))


def _up(arguments: list[str]) -> int:
    from conf.compose import compose_section
    from conf.schema import UpConfig
    from flows.up import up

    return up(compose_section(UpConfig, arguments))


def _rollback(arguments: list[str]) -> int:
    from flows import console
    from flows.registry import Registry

    preset, overrides = split_preset(arguments)
    registry = Registry(_compose(preset, overrides).tracking)
    console.show_table("rolled back", [("champion", str(registry.rollback()))])
    return 0


def _data(arguments: list[str]) -> int:
    from flows import console, versioning

    verbs = [argument for argument in arguments if "=" not in argument]
    preset, overrides = split_preset([argument for argument in arguments if "=" in argument])
    config = _compose(preset, overrides).versioning
    match verbs:
        case ["list"]:
            console.show_table("versions", versioning.listed(config))
        case ["pull", reference]:
            artifact = versioning.pull(reference, config)
            console.show_table("pulled", [(artifact.stage, str(artifact.folder)), ("key", artifact.key)])
        case _:
            raise InputError(f"unknown: lacewing data {' '.join(verbs)}; write `data list` or `data pull ARTIFACT`")
    return 0


def _sync(arguments: list[str]) -> int:
    from flows import console
    from flows.sync import sync

    preset, overrides = split_preset(arguments)
    config = _compose(preset, overrides)
    console.show_table("sync", sync(config.tracking, config.versioning))
    return 0


def _command_help(name: str) -> str:
    from conf.help import schema_help
    from conf.schema import ProjectConfig, ServeCommandConfig, UpConfig

    schemas: dict[str, Any] = {"serve": ServeCommandConfig, "up": UpConfig}
    if name in schemas:
        return f"lacewing {name}: {COMMANDS[name]}\n\n{schema_help(schemas[name])}"
    sections = schema_help(ProjectConfig, only=("tracking", "versioning"))
    return f"lacewing {name}: {COMMANDS[name]}\n\n{sections}"


if __name__ == "__main__":
    sys.exit(main())
