"""The command line: quick help, clear errors, exit codes."""

import os
import subprocess
import sys

import pytest

from flows.catalogue import flows
from flows.commands import COMMANDS, split_preset


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


def test_help_imports_nothing_heavy() -> None:
    program = "import sys, flows.cli; flows.cli.main(['--help']); print([m for m in sys.modules if m in HEAVY])"
    heavy = "{'torch', 'prefect', 'mlflow', 'hydra', 'dvc', 'pydantic', 'numpy', 'lightning'}"
    done = subprocess.run(
        [sys.executable, "-c", program.replace("HEAVY", heavy)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    for name in (*flows(), *COMMANDS):
        assert f"\n  {name}" in done.stdout


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    command = [sys.executable, "-c", "import sys\nfrom flows.cli import main\nsys.exit(main(['pretrain', '--help']))"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        ended = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_help_of_a_flow_lists_every_key_with_default_and_meaning() -> None:
    done = command("pretrain", "--help")
    assert done.returncode == 0
    assert "trainer.max_steps=" in done.stdout
    assert "groups: model=" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pipelin"], 2, "unknown command 'pipelin'; did you mean pipeline?"),
        (["--hlep"], 2, "did you mean --help?"),
        (["pipeline", "--dryrun"], 2, "did you mean --dry-run?"),
        (["pipeline", "--trainer.max-steps=3"], 2, "did you mean trainer.max_steps=3?"),
        (["pipeline", "--learning-rate", "3"], 2, "did you mean trainer.learning_rate"),
        (["pipeline", "data.text_field=" + "[" * 900], 2, "nests brackets 900 deep"),
        (["accept", "prepare", "--reson", "mine"], 2, "did you mean --reason?"),
        (["data", "lst"], 2, "did you mean list?"),
        (["serve", "port=[1"], 2, "a bracket or quote is not closed"),
        (["up", "prefct_port=4300"], 2, "did you mean prefect_port?"),
        (["up", "mlflow_port=1,2"], 2, "stands for several values"),
        (["pipeline", "trainer.max_step=3"], 2, "did you mean trainer.max_steps"),
        (["pipeline", "experiment=none"], 2, "unknown preset 'none'"),
        (["prepare", "data.sources=[nowhere.txt]"], 2, "nowhere.txt"),
        (["prepare", "experiment=text"], 2, "data.sources"),
        (["up", "prefect_port=70000"], 2, "less than or equal to 65535"),
        (["data", "fetch"], 2, "data pull"),
        (["pipeline", "--dry-run", "model=big"], 2, "choices are"),
    ],
)
def test_mistakes_are_told_at_once_and_without_a_traceback(arguments: list[str], code: int, words: str) -> None:
    done = command(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_cfg_job_shows_the_composed_configuration_and_runs_nothing() -> None:
    done = command("pipeline", "--cfg", "job", "trainer.max_steps=7")
    assert done.returncode == 0, done.stderr
    assert "max_steps: 7" in done.stdout
    assert "sources:" in done.stdout


def test_cfg_job_checks_what_it_shows() -> None:
    done = command("pipeline", "--cfg", "job", "trainer.max_steps=0")
    assert done.returncode == 2
    assert "greater than 0" in done.stderr


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.learning_rat=1e-3,3e-3"], "did you mean trainer.learning_rate"),
        (["trainer.seed=1,2", "+trainer.extra=1,2"], "every key already exists"),
        (["trainer.seed=1,-2"], "trainer.seed = -2"),
        (["model=quick,10n"], "did you mean 10m?"),
        (["~trainer"], "every key already exists"),
    ],
)
def test_a_sweep_is_checked_before_its_first_run_and_in_our_words(overrides: list[str], words: str) -> None:
    done = command("pretrain", "--multirun", "--dry-run", *overrides)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert "Use +" not in done.stderr
    assert "To append to your config" not in done.stderr
    assert "would run" not in done.stderr


def test_a_sweep_runs_every_combination() -> None:
    done = command("pretrain", "--multirun", "--dry-run", "trainer.seed=1,2", "experiment=world,pydoc")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pretrain   would run") == 4


def test_the_preset_is_taken_out_of_the_overrides() -> None:
    assert split_preset(["experiment=text", "data.sources=[a]"]) == ("text", ["data.sources=[a]"])
    assert split_preset(["model=10m"]) == ("world", ["model=10m"])
