"""Services that are away do not cost work: the run finishes, says what was not sent, and sends it later."""

from pathlib import Path

import pytest

from tests.end_to_end.conftest import Place, free_port

pytestmark = [pytest.mark.slow, pytest.mark.soak]

SMALL = ["data.world.entities=200", "data.vocab_size=1024"]


@pytest.fixture
def no_server() -> str:
    """An address on which nothing listens."""
    return f"http://127.0.0.1:{free_port()}"


def test_mlflow_and_the_dvc_remote_are_away_and_come_back(tmp_path: Path, no_server: str) -> None:
    place = Place(tmp_path / "workspace", tmp_path / "sockets.log")
    (tmp_path / "disk").write_text("a file where the folder of the remote should be")
    away = place.run(
        "prepare", *SMALL, f"tracking.uri={no_server}", f"versioning.remote={tmp_path / 'disk' / 'remote'}"
    )
    assert away.returncode == 0, away.stderr
    assert no_server in away.stderr
    assert "lacewing sync" in away.stderr
    assert "prepare ran" in away.stdout

    (tmp_path / "disk").unlink()
    sent = place.run("sync", f"versioning.remote={tmp_path / 'disk' / 'remote'}")
    assert sent.returncode == 0, sent.stderr
    assert "pushed to" in sent.stdout
    assert "mlflow.db" in sent.stdout
    again = place.run("sync", f"versioning.remote={tmp_path / 'disk' / 'remote'}")
    assert "nothing to send" in again.stdout


def test_a_release_without_its_registry_fails_by_name_and_keeps_the_work(tmp_path: Path, no_server: str) -> None:
    place = Place(tmp_path / "workspace", tmp_path / "sockets.log")
    steps = ["trainer.max_steps=4", "trainer.validate_every_steps=4", "delegation.max_steps=4", "facts.biographies=2"]
    done = place.run("pipeline", *SMALL, *steps, f"tracking.uri={no_server}")
    assert done.returncode == 6
    assert no_server in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.parent.parent.name for path in place.workspace.glob("artifacts/*/*/artifact.json")) == [
        "assess",
        "bundle",
        "calibrate",
        "cascade",
        "delegate",
        "label",
        "prepare",
        "pretrain",
    ]
    again = place.run("pipeline", *SMALL, *steps)  # the registry is back: nothing is done twice
    assert again.returncode == 0, again.stderr
    words = again.stdout.replace("\n", " ")
    assert words.count(" skipped") == 8, words
