"""``lacewing completion SHELL``: a script that completes commands, options, settings and their values.

The script holds all words, so that the TAB key starts no Python and answers at once. It is written anew with each
version of lacewing, by the same command.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from components.core.errors import InputError
from conf.compose import GROUPS, choices, fields
from conf.nearest import did_you_mean
from conf.schema import ExportCommandConfig, GatewayCommandConfig, ProjectConfig, ServeCommandConfig, UpConfig
from flows.catalogue import Flow, flows
from flows.options import OF_FLOWS

ALIASES = ("champion", "challenger")

_BASH = """\
# bash completion of lacewing; made by `lacewing completion bash`
_lacewing() {{
    local line="${{COMP_LINE:0:COMP_POINT}}" command="${{COMP_WORDS[1]}}" words="" values=""
    local word="${{line##*[[:space:]]}}" IFS=$'\\n'
    COMPREPLY=()
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "${{_lacewing_commands// /$'\\n'}}" -S ' ' -- "$word"))
    elif [[ $word == *=* ]]; then
        case "$command ${{word%%=*}}" in
{values}
            *) return ;;
        esac
        COMPREPLY=($(compgen -W "${{values// /$'\\n'}}" -P "${{word%%=*}}=" -S ' ' -- "${{word#*=}}"))
        # Where = separates words, bash replaces only what follows it.
        if [[ $COMP_WORDBREAKS == *=* ]]; then COMPREPLY=("${{COMPREPLY[@]#*=}}"); fi
    else
        case "$command" in
{words}
        esac
        COMPREPLY=($(compgen -W "${{words// /$'\\n'}}" -- "$word"))
        local place
        for place in "${{!COMPREPLY[@]}}"; do
            if [[ ${{COMPREPLY[place]}} != *= ]]; then COMPREPLY[place]+=' '; fi
        done
    fi
}}
_lacewing_commands={commands}
complete -o default -o nospace -F _lacewing lacewing
"""

_ZSH = """\
#compdef lacewing
# zsh completion of lacewing; made by `lacewing completion zsh`
_lacewing() {{
    local -a plain settings choices
    local command=$words[2]
    if (( CURRENT == 2 )); then
        compadd -- {commands}
    elif [[ $PREFIX == *=* ]]; then
        local setting="$command ${{PREFIX%%=*}}" values=""
        compset -P '*='
        case $setting in
{values}
            *) _files; return ;;
        esac
        choices=(${{=values}})
        compadd -a choices
    else
        local words=""
        case $command in
{words}
        esac
        settings=(${{(M)${{=words}}:#*=}}) plain=(${{${{=words}}:#*=}})
        compadd -S '' -a settings
        compadd -a plain
    fi
}}
if [[ $funcstack[1] == _lacewing ]]; then _lacewing "$@"; else compdef _lacewing lacewing; fi
"""

_FISH = """\
# fish completion of lacewing; made by `lacewing completion fish`
complete -c lacewing -f
{commands}
{words}
"""


@dataclass(frozen=True)
class Group:
    """Commands that take the same words."""

    commands: tuple[str, ...]
    words: tuple[str, ...]
    """Options, verbs and settings; a setting ends in ``=``."""
    values: Mapping[str, Sequence[str]]
    """Of a setting, the values that can be listed."""


def script(shell: str, summaries: Mapping[str, str]) -> str:
    """The script for ``shell``; raises ``InputError`` for a shell that has none.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
        summaries: every command that is no flow, with its line of help.
    """
    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if shell not in scripts:
        near = did_you_mean(shell, list(scripts)) or "; "
        raise InputError(f"no completion for the shell {shell!r}{near} Write lacewing completion {'|'.join(scripts)}")
    everything = {name: flow.summary for name, flow in flows().items()} | dict(summaries)
    return scripts[shell](everything, groups(tuple(summaries)))


def groups(commands: Sequence[str]) -> list[Group]:
    """Every command once, with what may follow it."""
    presets = {group: choices(group) for group in GROUPS}
    of_flow = [*(f"{group}=" for group in presets), *_settings(ProjectConfig)]
    values = {**_values(ProjectConfig), **presets}
    of_registry = [word for word in of_flow if word.startswith(("tracking.", "versioning."))]
    named = {
        "serve": (_settings(ServeCommandConfig), _values(ServeCommandConfig)),
        "gateway": (_settings(GatewayCommandConfig), _values(GatewayCommandConfig)),
        "up": (_settings(UpConfig), _values(UpConfig)),
        "data": (["list", "pull", *of_flow], values),
        "accept": (["--reason", *of_flow], values),
        "doctor": (["--json", *of_flow], values),
        "lineage": ([*ALIASES, "--json", *of_registry], values),
        "verify": ([*ALIASES, *of_registry], values),
        "reproduce": ([*ALIASES, "into=", *of_registry], values),
        "export": (_settings(ExportCommandConfig), _values(ExportCommandConfig)),
        "completion": (["bash", "zsh", "fish"], {}),
    }
    found = [_of_flow(entry, of_flow, values) for entry in flows().values() if entry.own]
    rest = tuple(name for name, entry in flows().items() if not entry.own)
    found.append(Group(rest, (*OF_FLOWS, *of_flow), values))
    for command in commands:
        words, of_command = named.get(command, (of_flow, values))
        found.append(Group((command,), ("--help", *words), of_command))
    return found


def _of_flow(entry: Flow, words: Sequence[str], values: Mapping[str, Sequence[str]]) -> Group:
    """A flow with settings that need not name their section; they hide those of the same name.

    If it takes models as words, the names that every registry knows are among its words.
    """
    section = ProjectConfig.model_fields[entry.own].annotation
    assert isinstance(section, type)
    own = _settings(section)
    others = {key: listed for key, listed in values.items() if f"{key}=" not in own}
    models = ALIASES if entry.words else ()
    return Group((entry.name,), tuple(dict.fromkeys([*models, *OF_FLOWS, *own, *words])), others | _values(section))


def _settings(schema: type[BaseModel]) -> list[str]:
    return [f"{key}=" for key, field in fields(schema) if not _is_section(field.annotation)]


def _values(schema: type[BaseModel]) -> dict[str, list[str]]:
    found = {key: list(_listed(field.annotation)) for key, field in fields(schema)}
    return {key: values for key, values in found.items() if values}


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _listed(annotation: Any) -> Iterator[str]:
    if annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif get_origin(annotation) is not list:
        for part in get_args(annotation):
            yield from _listed(part)


def _bash(summaries: Mapping[str, str], groups: Sequence[Group]) -> str:
    return _BASH.format(commands=shlex.quote(" ".join(summaries)), words=_cases(groups), values=_value_cases(groups))


def _zsh(summaries: Mapping[str, str], groups: Sequence[Group]) -> str:
    return _ZSH.format(commands=" ".join(summaries), words=_cases(groups), values=_value_cases(groups))


def _cases(groups: Sequence[Group]) -> str:
    lines = [f"{'|'.join(group.commands)}) words={shlex.quote(' '.join(group.words))} ;;" for group in groups]
    return "\n".join(f"            {line}" for line in lines)


def _value_cases(groups: Sequence[Group]) -> str:
    """One line for every command and key."""
    lines = []
    for group in groups:
        for key, values in group.values.items():
            pattern = "|".join(f"'{command} {key}'" for command in group.commands)
            lines.append(f"            {pattern}) values={shlex.quote(' '.join(values))} ;;")
    return "\n".join(lines)


def _fish(summaries: Mapping[str, str], groups: Sequence[Group]) -> str:
    commands = [
        f"complete -c lacewing -n __fish_use_subcommand -a {name} -d {shlex.quote(text)}"
        for name, text in summaries.items()
    ]
    words = []
    for group in groups:
        several = [f"{key}={value}" for key, values in group.values.items() for value in values]
        seen = f"__fish_seen_subcommand_from {' '.join(group.commands)}"
        words.append(f"complete -c lacewing -n '{seen}' -a {shlex.quote(' '.join([*group.words, *several]))}")
    return _FISH.format(commands="\n".join(commands), words="\n".join(words))
