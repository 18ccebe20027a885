"""A workspace that cannot be written to is the user's to mend, and is told so at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.core.errors import InputError
from flows.workspace import make_workspace, unwritable_explained

COMMANDS = [
    ["prepare", "data.world.entities=40"],
    ["up"],
    ["data", "list"],
    ["data", "pull", "prepare"],
    ["rollback"],
    ["accept", "prepare", "--reason", "mine"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:2]))
@pytest.mark.parametrize("made_before", [False, True])
def test_commands_say_that_the_workspace_cannot_be_written_to(
    read_only: Path, arguments: list[str], made_before: bool
) -> None:
    place = read_only if made_before else read_only / "workspace"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env={**environment, "LACEWING_WORKSPACE": str(place)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == InputError.exit_code, done.stderr
    for word in (str(place), "cannot be written to", "LACEWING_WORKSPACE"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_writes_nothing_and_needs_no_right_to(read_only: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "prepare", "--dry-run"],
        env={**os.environ, "LACEWING_WORKSPACE": str(read_only)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_a_file_in_place_of_the_workspace_is_named(workspace: Path) -> None:
    workspace.write_text("not a folder")
    with pytest.raises(InputError, match=f"{workspace} cannot be written to"):
        make_workspace()


def test_a_refusal_elsewhere_stays_what_it_is(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(PermissionError), unwritable_explained():
        raise PermissionError(13, "Permission denied", str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match="cannot be written to"), unwritable_explained():
        raise PermissionError(13, "Permission denied", str(workspace / "ledger.jsonl"))
