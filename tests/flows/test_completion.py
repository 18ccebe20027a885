"""The TAB key: commands, options, settings and values, in real shells, without starting Python."""

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from components.core.errors import InputError
from conf.compose import compose_project
from flows.catalogue import find_flow, flows
from flows.commands import COMMANDS
from flows.completion import groups, script

SHELLS = ("bash", "zsh", "fish")
SUMMARIES = {name: command.summary for name, command in COMMANDS.items()}
# What is typed, and what it must become.
COMPLETED = [
    ("lacewing pretr", "lacewing pretrain "),
    ("lacewing pretrain trainer.max", "lacewing pretrain trainer.max_steps="),
    ("lacewing pretrain trainer.optimizer=mu", "lacewing pretrain trainer.optimizer=muon "),
    ("lacewing pipeline --dr", "lacewing pipeline --dry-run "),
    ("lacewing pipeline experiment=pyd", "lacewing pipeline experiment=pydoc "),
    ("lacewing up mlfl", "lacewing up mlflow_port="),
    ("lacewing data pu", "lacewing data pull "),
    ("lacewing doctor --js", "lacewing doctor --json "),
]
ASK_BASH = """
COMP_LINE="$1" COMP_POINT=${#1} COMP_WORDBREAKS=' '
read -ra COMP_WORDS <<<"$1"
COMP_CWORD=$((${#COMP_WORDS[@]}-1))
_lacewing
printf '%s\\n' "${COMPREPLY[@]}"
"""
ASK_ZSH = """
compdef() { : }
compset() { before=${PREFIX%%=*}=; PREFIX=${PREFIX#*=} }
compadd() {
    local after=' '
    if [[ $1 == -S ]]; then after=''; shift 2; fi
    if [[ $1 == -a ]]; then set -- "${(P@)2}"; else shift; fi
    for each in "$@"; do [[ $each == $PREFIX* ]] && print -r -- "$before$each$after"; done
    return 0
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script for every shell."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        (folder / shell).write_text(script(shell, SUMMARIES))
    return folder


def completions(shell: str, folder: Path, line: str) -> list[str]:
    """What the shell's own completion offers for the last word of ``line``."""
    place = folder / shell
    ask = {
        "bash": ["bash", "-c", f"source {place}; {ASK_BASH}", "bash", line],
        "zsh": ["zsh", "-fc", f"{ASK_ZSH} source {place}; words=({line}) CURRENT=$#words PREFIX=$words[-1]; _lacewing"],
        "fish": ["fish", "-N", "-c", f"source {place}; complete -C '{line}'"],
    }[shell]
    done = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=True)
    offered = [answer.partition("\t")[0] for answer in done.stdout.splitlines()]
    # fish adds the space itself, unless the word ends with =
    return [word if shell != "fish" or word.endswith("=") else f"{word} " for word in offered]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("typed", "wanted"), COMPLETED)
def test_the_shell_completes(shell: str, folder: Path, typed: str, wanted: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert completions(shell, folder, typed) == [wanted.removeprefix(typed.rpartition(" ")[0] + " ")]


def test_the_tab_key_completes_in_bash_as_it_comes(folder: Path) -> None:
    """On a terminal, with bash's own separators of words, of which = is one."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvp("bash", ["bash", "--norc", "-i"])
    try:
        os.write(terminal, f"PS1=; source {folder / 'bash'}; echo ready$((1+1))\n".encode())
        assert "ready2" in read_until(terminal, "ready2")
        os.write(terminal, b"lacewing pretr\ttrainer.opti\tmu\t")
        assert "pretrain trainer.optimizer=muon " in read_until(terminal, "=muon ")
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(terminal)


def read_until(terminal: int, wanted: str) -> str:
    said, deadline = "", time.monotonic() + 20
    while wanted not in said and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            said += os.read(terminal, 4096).decode(errors="replace")
    return said


def test_the_answer_comes_at_once(folder: Path) -> None:
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        completions("bash", folder, "lacewing pretrain trainer.")
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 0.3


def test_every_command_is_there_once_and_every_listed_value_is_valid() -> None:
    found = groups(tuple(COMMANDS))
    assert sorted(name for group in found for name in group.commands) == sorted([*flows(), *COMMANDS])
    of_flow = next(group for group in found if "prepare" in group.commands)
    assert len(of_flow.words) == len(set(of_flow.words)) > 100
    needs_more = {"cascade.helper.kind", "facts.factscore.judge.kind", "arena.judge.kind", "experiment"}
    needs_more.add("finetune.distill.text")  # written text excludes the other settings of distillation
    overrides = [f"{key}={values[-1]}" for key, values in of_flow.values.items() if key not in needs_more]
    (name,) = of_flow.commands if len(of_flow.commands) == 1 else ("pretrain",)
    compose_project("world", find_flow(name).qualified(overrides))


def test_an_unknown_shell_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"did you mean bash\?"):
        script("bahs", SUMMARIES)
