"""What a server that follows the registry is told about it."""

from pathlib import Path

import pytest

from components.core.artifact import RECORD
from components.core.identity import digest_file
from conf.services import TrackingConfig
from flows.promotion import Registry
from flows.watch import Watcher, WatchSettings


def watcher(canary: bool = False, server: str = "") -> Watcher:
    return Watcher(
        WatchSettings(tracking=TrackingConfig(), served="champion", canary=canary, every_seconds=1.0, server=server)
    )


@pytest.mark.usefixtures("database")
def test_the_champion_and_the_challenger_are_told(workspace: Path, make_bundle) -> None:
    registry = Registry(TrackingConfig())
    first, second = make_bundle("a"), make_bundle("b")
    registry.promote(registry.register(first).number, "the first", by="alice")
    watching, plain = watcher(canary=True, server="http://127.0.0.1:5000"), watcher()
    wanted = watching.look()
    assert wanted.served is not None
    assert wanted.served.name == "lacewing/1"
    assert wanted.served.folder == str(first.folder)
    assert wanted.served.digest == digest_file(first.folder / RECORD)
    assert wanted.served.page == "http://127.0.0.1:5000/#/models/lacewing/versions/1"
    assert wanted.canary is None, "the champion is no challenger of itself"
    registry.register(second)
    wanted = watching.look()
    assert (wanted.served.name, wanted.canary.name) == ("lacewing/1", "lacewing/2")
    assert plain.look().canary is None
    registry.promote(2, "better", by="alice")
    assert plain.look().served.name == "lacewing/2"
    registry.rollback("worse", by="alice")
    assert plain.look().served.name == "lacewing/1"


@pytest.mark.usefixtures("database")
def test_a_version_that_was_altered_in_the_store_is_a_fault(workspace: Path, make_bundle) -> None:
    registry = Registry(TrackingConfig())
    bundle = make_bundle("a")
    version = registry.promote(registry.register(bundle).number, "the first", by="alice")
    (bundle.folder / "config.json").write_text("changed here, so that it is fetched")
    stored = list(workspace.glob("mlartifacts/**/config.json"))
    for path in stored:
        path.write_text('{"changed": "there too"}')
    watching = watcher()
    wanted = watching.look()
    assert "config.json" in wanted.served.fault
    assert "altered in the artifact store" in wanted.served.fault
    assert wanted.served.folder == ""
    for path in stored:
        path.write_text("{}")
    assert watching.look() == wanted, "it is not fetched at every look"
    watching._again[wanted.served.digest] = 0.0
    served = watching.look().served
    assert served.fault == ""
    assert digest_file(Path(served.folder) / RECORD) == version.tags["lacewing.record_sha256"]


@pytest.mark.usefixtures("database")
def test_a_registry_without_a_champion_or_without_a_database_is_a_fault(workspace: Path, make_bundle) -> None:
    watching = watcher()
    assert "has no 'champion' of the model 'lacewing' any more" in watching.look().fault
    registry = Registry(TrackingConfig())
    registry.promote(registry.register(make_bundle("a")).number, "the first", by="alice")
    assert watching.look().fault == ""
    gone = Watcher(
        WatchSettings(
            tracking=TrackingConfig(uri="http://127.0.0.1:9", timeout_seconds=1),
            served="champion",
            canary=False,
            every_seconds=1.0,
        )
    )
    assert "a request to MLflow at http://127.0.0.1:9 failed" in gone.look().fault
