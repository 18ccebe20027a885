"""The command ``lacewing``. It imports nothing heavy before it knows the command, so ``--help`` answers at once."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING

from components.core.errors import InputError, LacewingError
from conf.nearest import did_you_mean
from flows.catalogue import Flow, find_flow, flows
from flows.commands import COMMANDS, command_help, split_preset
from flows.endings import InterruptedRunError, RefusedError
from flows.options import FlowArguments, read_flow_arguments
from flows.workspace import unwritable_explained

if TYPE_CHECKING:
    from conf.services import TrackingConfig

INTERRUPTED = 130

HELP = """\
lacewing raises small language models that know when to ask.

usage: lacewing FLOW [key=value ...] [--dry-run] [--cfg job] [--multirun]
       lacewing COMMAND [key=value ...]

flows (each but release first brings up to date what comes before it)
{flows}

commands
{commands}

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
  lacewing compare champion challenger
  lacewing serve model=champion

Results live in ./workspace, or where LACEWING_WORKSPACE says. Exit codes: 0 done, 1 `doctor` found a
fault, 2 bad input, {refused} refused by the gate, 4 damaged artifact, 5 disk full, 6 a service does not answer,
7 a stage was killed, {interrupted} interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        code = _answered(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # who reads, such as ``head``, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _answered(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(help_page())
        return 0
    if arguments[0] == "--version":
        print(f"lacewing {import_module('importlib.metadata').version('lacewing')}")
        return 0
    return _reported(arguments[0], arguments[1:])


def _reported(name: str, arguments: list[str]) -> int:
    """Run the command; an error for people is one message, without a traceback."""
    try:
        with unwritable_explained():
            return _dispatch(name, arguments)
    except LacewingError as error:
        from flows import console

        console.fail(str(error))
        return error.exit_code


def help_page() -> str:
    """What ``lacewing --help`` prints."""
    return HELP.format(
        flows=_lines({name: entry.summary for name, entry in flows().items()}),
        commands=_lines({name: command.summary for name, command in COMMANDS.items()}),
        refused=RefusedError.exit_code,
        interrupted=INTERRUPTED,
    )


def _lines(summaries: Mapping[str, str]) -> str:
    return "\n".join(f"  {name:<10} {text}" for name, text in summaries.items())


def _dispatch(name: str, arguments: list[str]) -> int:
    wants_help = "--help" in arguments or "-h" in arguments
    if name in flows():
        return _flow_help(name) if wants_help else _flow(name, arguments)
    if name not in COMMANDS:
        near = did_you_mean(name, [*flows(), *COMMANDS, "--help", "--version"])
        raise InputError(
            f"unknown command {name!r}{near or ';'} Flows: {', '.join(flows())}; commands: {', '.join(COMMANDS)}"
        )
    if wants_help:
        print(command_help(name))
        return 0
    return COMMANDS[name].run(arguments)


def _flow_help(name: str) -> int:
    from conf.help import schema_help
    from conf.schema import ProjectConfig

    entry = find_flow(name)
    print(
        f"lacewing {name}: {entry.summary}\n\n{_words_help(entry)}{_own_help(entry)}"
        f"example: lacewing {name} {entry.example}\n\n{schema_help(ProjectConfig)}"
    )
    return 0


def _words_help(entry: Flow) -> str:
    """How to give what needs no key; nothing for a flow that takes settings only."""
    return f"usage: {entry.usage} [key=value ...]   (the words are {entry.words})\n\n" if entry.words else ""


def _own_help(entry: Flow) -> str:
    """Which keys may be shortened; nothing for a flow that has none."""
    return f"keys of {entry.own} need no {entry.own}. before them, model=... among them\n\n" if entry.own else ""


def _flow(name: str, words: list[str]) -> int:
    entry = find_flow(name)
    arguments = read_flow_arguments(words).with_words(entry.words)
    arguments = arguments._replace(overrides=entry.qualified(arguments.overrides))
    if arguments.hydra:
        return _hydra(name, arguments)
    return _run(name, arguments.overrides, arguments.dry)


def _run(name: str, overrides: list[str], dry: bool) -> int:
    from conf.compose import compose_project

    preset, overrides = split_preset(overrides)
    config = compose_project(preset, overrides)  # mistakes are reported at once, before anything has started
    if dry:
        from flows.execution import plan

        plan(find_flow(name), preset, overrides)
        return 0
    from flows.adapters import dvc
    from flows.workspace import make_workspace

    make_workspace()
    dvc.initialize()
    end_in_order_on_sigterm()
    return _execute(name, preset, overrides, config.tracking)


def _execute(name: str, preset: str, overrides: list[str], tracking: "TrackingConfig") -> int:
    # Prefect's own lines go to its server; the terminal shows ours, and an error once.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from flows.up import find_server

    server = find_server()
    from flows.adapters.mlflow_connection import warm_up
    from flows.adapters.prefect_outage import Outcome
    from flows.adapters.prefect_runs import close_abandoned
    from flows.entrypoints import prefect_flow
    from flows.room import full_disk_named
    from flows.summary import Summary
    from flows.workspace import workspace_folder

    outcome: Outcome[Summary] = Outcome()
    flow = prefect_flow(find_flow(name), outcome)
    try:
        with full_disk_named(workspace_folder()):
            if server.process:
                warm_up(tracking)
                server.process.wait()
            close_abandoned(server.own)
            outcome.of(lambda: flow(preset=preset, overrides=overrides))
    except RefusedError as refusal:  # the closing table has said why
        return refusal.exit_code
    except InterruptedRunError as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)  # not an error: it ends a sweep as well
    return 0


def end_in_order_on_sigterm() -> None:
    """Let SIGTERM end the process as an exception would, so that what it started ends with it."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def _hydra(name: str, arguments: FlowArguments) -> int:
    """Hydra's own options (``--cfg``, ``--multirun``, ``--info``) by Hydra's own command line."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from conf.compose import CONF, register_defaults

    codes = [0]

    def job(_: object) -> None:
        overrides = list(HydraConfig.get().overrides.task)
        try:
            codes.append(_run(name, overrides, arguments.dry))
        except LacewingError as error:
            from flows import console

            console.fail(f"{' '.join(overrides)}: {error}")
            codes.append(error.exit_code)

    register_defaults()
    _check_before_hydra(arguments)
    sys.argv = [f"lacewing {name}", *arguments.hydra, *arguments.overrides]
    hydra.main(config_path=str(CONF), config_name="flow", version_base="1.3")(job)()
    return max(codes)


def _check_before_hydra(arguments: FlowArguments) -> None:
    """Tell mistakes in our words: Hydra's would advise ``+key=value``, which no flow accepts."""
    from conf.compose import compose_project, runs_to_check

    ours = [word for word in arguments.overrides if not word.startswith(("hydra.", "hydra/"))]
    for overrides in runs_to_check(ours) if arguments.sweep else [ours]:
        compose_project(*split_preset(overrides))


if __name__ == "__main__":
    sys.exit(main())
