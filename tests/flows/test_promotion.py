import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, InputError, ServiceError
from conf.services import TrackingConfig
from flows.promotion import CHALLENGER, CHAMPION, ROLLED_BACK, ChampionMovedError, Registry

pytestmark = pytest.mark.usefixtures("database")

MakeBundle = Callable[[str], Artifact]


@pytest.fixture
def registry(workspace: Path) -> Registry:
    return Registry(TrackingConfig())


@pytest.fixture
def three(registry: Registry, make_bundle: MakeBundle) -> list[Artifact]:
    """Three bundles, registered and promoted one after the other."""
    bundles = [make_bundle(weights) for weights in "abc"]
    for bundle in bundles:
        registry.promote(registry.register(bundle).number, f"reason {bundle.key[:4]}", by="alice")
    return bundles


def number(registry: Registry, reference: str) -> int:
    version = registry.version(reference)
    assert version is not None
    return version.number


def actions(registry: Registry) -> list[tuple[str, int, int]]:
    return [(move.action, move.version, move.previous) for move in registry.ledger.changes()]


def test_a_registered_bundle_is_challenger_and_says_what_it_is(registry, make_bundle, data):
    bundle = make_bundle("a")
    version = registry.register(bundle, {"lacewing.note": "by hand"})
    assert number(registry, CHALLENGER) == version.number == 1
    assert registry.version(CHAMPION) is None
    assert registry.champion() is None
    assert version.key == bundle.key
    assert json.loads(version.tags["lacewing.inputs"])["prepared"] == data.content
    assert version.tags["lacewing.bits_per_byte"] == "1.250000"
    described = registry.connection.client.get_model_version("lacewing", "1").description
    assert described.startswith("A small language model without a helper: 2,000 parameters.")
    assert version.tags["lacewing.note"] == "by hand"
    assert "lacewing.config_digest" not in version.tags, "no run has said what its configuration was"


def test_a_version_has_the_digest_of_the_run_that_made_it_and_the_latest_verdict(registry, make_bundle):
    bundle = make_bundle("a")
    made = {"lacewing.config_digest": "first"}
    registry.register(bundle, made, {"lacewing.gate": "refused", "lacewing.gate_reason": "worse"})
    again = {"lacewing.config_digest": "second"}
    version = registry.register(bundle, again, {"lacewing.gate": "passed", "lacewing.gate_reason": "wider margin"})
    assert version.number == 1
    assert version.tags["lacewing.config_digest"] == "first"
    assert version.tags["lacewing.gate"] == "passed"
    described = registry.connection.client.get_model_version("lacewing", "1").description
    assert "| gate | **passed**: wider margin |" in described
    assert registry.register(bundle).tags["lacewing.gate"] == "passed", "who says nothing changes nothing"


def test_versions_of_runs_with_other_settings_differ_in_their_digest(registry, make_bundle):
    first, second = (registry.register(make_bundle(name), {"lacewing.config_digest": name}) for name in "ab")
    assert [first.tags["lacewing.config_digest"], second.tags["lacewing.config_digest"]] == ["a", "b"]


def test_the_same_bundle_is_the_same_version_and_uploaded_once(registry, make_bundle, workspace):
    bundle = make_bundle("a")
    assert registry.register(bundle).number == Registry(TrackingConfig()).register(bundle).number == 1
    assert len(registry.versions()) == 1
    weights = list((workspace / "mlartifacts").rglob("model.safetensors"))
    assert len(weights) == 1
    names = {path.name for path in weights[0].parent.iterdir()}
    assert names == {*bundle.record.files, "artifact.json"}, "nothing but the sealed files is uploaded"


def test_an_upload_that_was_cut_off_is_taken_up(registry, make_bundle, workspace, monkeypatch):
    bundle = make_bundle("a")
    with monkeypatch.context() as patch:
        patch.setattr(registry.connection.client, "create_model_version", _killed)
        with pytest.raises(KeyboardInterrupt):
            registry.register(bundle)
    assert registry.register(bundle).number == 1
    assert len(list((workspace / "mlartifacts").rglob("model.safetensors"))) == 1


def _killed(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt


def test_registering_an_altered_bundle_is_refused(registry, make_bundle):
    bundle = make_bundle("a")
    (bundle.folder / "config.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"config\.json"):
        registry.register(bundle)
    assert registry.versions() == []


def test_processes_that_register_the_same_bundle_make_one_version(registry, make_bundle):
    bundle = make_bundle("a")
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=_register, args=(str(bundle.folder),)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert [version.number for version in registry.versions()] == [1]


def _register(folder: str) -> None:
    Registry(TrackingConfig()).register(Artifact.open(Path(folder)))


def test_promotion_moves_the_alias_and_leaves_a_trace(registry, three):
    champion = registry.version(CHAMPION)
    assert champion is not None
    assert champion.number == 3
    assert champion.tags["lacewing.previous_champion"] == "2"
    assert champion.tags["lacewing.promoted_by"] == "alice"
    assert champion.tags["lacewing.reason"] == f"reason {three[2].key[:4]}"
    assert "lacewing.promoted_at" in champion.tags
    assert actions(registry) == [("promote", 1, 0), ("promote", 2, 1), ("promote", 3, 2)]
    assert registry.ledger.changes()[1].key == three[1].key


def test_promoting_the_champion_again_changes_nothing(registry, three):
    registry.promote(3, "again")
    assert number(registry, CHAMPION) == 3
    assert len(actions(registry)) == 3


def test_rollback_goes_back_one_champion_at_a_time_and_stops_at_the_first(registry, three):
    assert registry.rollback("it lies", by="bob").number == 2
    left = registry.version("3")
    assert left is not None
    assert ROLLED_BACK in left.tags
    assert left.tags["lacewing.rollback_reason"] == "it lies"
    assert registry.rollback().number == 1
    with pytest.raises(InputError, match="no champion before it"):
        registry.rollback()
    assert number(registry, CHAMPION) == 1
    assert actions(registry)[3:] == [("rollback", 2, 3), ("rollback", 1, 2)]


def test_rollback_without_a_champion_is_refused(registry, make_bundle):
    with pytest.raises(InputError, match="no champion"):
        registry.rollback()
    registry.register(make_bundle("a"))
    with pytest.raises(InputError, match="no champion"):
        registry.rollback()


def test_rollback_skips_a_champion_that_was_rolled_back_itself(registry, make_bundle, three):
    registry.rollback()  # 3 -> 2
    registry.promote(3, "we were wrong", allow_rolled_back=True)
    registry.promote(registry.register(make_bundle("d")).number, "new")
    registry.rollback()  # 4 -> 3
    assert registry.rollback().number == 2
    with pytest.raises(InputError, match="rolled back"):
        registry.promote(3, "again")


def test_a_rolled_back_bundle_is_not_promoted_again_unless_allowed(registry, three):
    registry.rollback("too slow", by="bob")
    assert registry.rolled_back(three[2].key)
    assert not registry.rolled_back(three[1].key)
    version = registry.register(three[2])
    with pytest.raises(InputError, match="bob: too slow"):
        registry.promote(version.number, "the pipeline ran again")
    assert number(registry, CHAMPION) == 2
    registry.promote(version.number, "it is fine after all", allow_rolled_back=True)
    assert number(registry, CHAMPION) == 3
    assert not registry.rolled_back(three[2].key)
    assert registry.rollback().number == 2


def test_a_promotion_killed_before_the_alias_has_changed_nothing(registry, make_bundle, three, monkeypatch):
    registry.moves.patience_seconds = 0.2  # this process is not gone, as a killed one would be
    version = registry.register(make_bundle("d"))
    with monkeypatch.context() as patch:
        patch.setattr(registry.connection.client, "set_registered_model_alias", _killed)
        with pytest.raises(KeyboardInterrupt):
            registry.promote(version.number, "good")
    assert number(registry, CHAMPION) == 3
    registry.promote(version.number, "good")
    assert registry.rollback().number == 3


def test_a_rollback_killed_before_the_alias_has_marked_nothing(registry, three, monkeypatch):
    registry.moves.patience_seconds = 0.2  # this process is not gone, as a killed one would be
    with monkeypatch.context() as patch:
        patch.setattr(registry.connection.client, "set_registered_model_alias", _killed)
        with pytest.raises(KeyboardInterrupt):
            registry.rollback()
    assert registry.rolled_back(three[2].key) is None
    assert registry.promote(3, "the pipeline ran again").number == 3, "it is the champion and not refused"
    assert registry.rollback().number == 2, "and not one too far"
    assert number(registry, CHAMPION) == 2


def test_a_rollback_killed_after_the_alias_is_remembered_with_its_reason(registry, three, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(registry.model, "tag", _killed)
        with pytest.raises(KeyboardInterrupt):
            registry.rollback("it lies", by="bob")
    left = Registry(TrackingConfig()).rolled_back(three[2].key)
    assert left is not None
    assert left.tags["lacewing.rollback_reason"] == "it lies"
    with pytest.raises(InputError, match="bob: it lies"):
        registry.promote(3, "the pipeline ran again")
    assert actions(registry)[3:] == [("rollback", 2, 3)]


def test_a_promotion_by_a_verdict_about_another_champion_is_refused(registry, make_bundle, three):
    version = registry.register(make_bundle("d"))
    with pytest.raises(ChampionMovedError, match=rf"the bundle {three[1].key[:16]}, but the champion is .* version 3 "):
        registry.promote(version.number, "better", judged_against=three[1].key)
    with pytest.raises(ChampionMovedError, match="no champion, but the champion is"):
        registry.promote(version.number, "the first", judged_against="")
    assert number(registry, CHAMPION) == 3
    registry.promote(version.number, "better", judged_against=three[2].key)
    assert number(registry, CHAMPION) == 4


def test_a_champion_chosen_by_hand_in_mlflow_can_be_rolled_back(registry, make_bundle, three):
    version = registry.register(make_bundle("d"))
    registry.connection.client.set_registered_model_alias(registry.name, CHAMPION, str(version.number))
    assert registry.rollback().number == 3
    assert actions(registry)[3:] == [("observed", 4, 3), ("rollback", 3, 4)]


def test_half_a_line_in_the_ledger_does_not_spoil_it(registry, make_bundle, three, workspace):
    with (workspace / "ledger.jsonl").open("a") as file:
        file.write('{"time": "2026-')
    registry.promote(registry.register(make_bundle("d")).number, "good")
    assert actions(registry)[3:] == [("promote", 4, 3)]
    assert all(line.endswith("}") for line in (workspace / "ledger.jsonl").read_text().splitlines())


def test_a_damaged_line_in_the_ledger_stops_a_move_and_is_named(registry, three, workspace):
    ledger = workspace / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join([lines[0], lines[1].replace("version", "versoin"), *lines[2:]]))
    for move in (registry.rollback, lambda: registry.promote(1, "why not")):
        with pytest.raises(ArtifactError, match=rf"{ledger}, line 2 is damaged.*version.*delete it"):
            move()
    assert number(registry, CHAMPION) == 3


@pytest.mark.parametrize("reference", ["champion", "challenger", "3"])
def test_a_model_is_found_by_alias_or_number(registry, three, reference):
    bundle = registry.resolve(reference)
    assert bundle.key == three[2].key
    assert bundle.folder == three[2].folder, "what is here already is not fetched"


def test_a_model_is_found_by_its_folder(registry, three):
    assert registry.resolve(str(three[0].folder)).key == three[0].key


def test_a_model_is_fetched_where_its_folder_is_not_or_is_damaged(registry, three, workspace):
    shutil.rmtree(three[1].folder)
    (three[2].folder / "model.safetensors").write_bytes(b"x" * 100)
    for reference, weights, bundle in (("2", "b", three[1]), ("champion", "c", three[2])):
        fetched = registry.resolve(reference)
        assert fetched.key == bundle.key
        assert workspace / "models" in fetched.folder.parents
        assert (fetched.folder / "model.safetensors").read_text() == weights * 100
        stamp = (fetched.folder / "artifact.json").stat().st_mtime_ns
        assert registry.resolve(reference).folder == fetched.folder
        assert (fetched.folder / "artifact.json").stat().st_mtime_ns == stamp, "fetched once"


def test_a_damaged_fetched_model_is_fetched_again(registry, three):
    shutil.rmtree(three[2].folder)
    weights = registry.resolve("champion").folder / "model.safetensors"
    weights.write_bytes(b"x")
    registry.resolve("champion")
    assert weights.read_text() == "c" * 100


@pytest.mark.parametrize("name", ["model.safetensors", "artifact.json"])
def test_a_model_altered_in_the_artifact_store_is_refused(registry, three, workspace, name):
    shutil.rmtree(three[2].folder)
    for path in (workspace / "mlartifacts").rglob(name):
        if path.parent.name == "bundle":
            content = path.read_text()
            path.write_text(
                content.replace("c", "d", 1) if name != "artifact.json" else content.replace("1.25", "0.25")
            )
    with pytest.raises(ArtifactError, match="altered in the artifact store"):
        registry.resolve("champion")


@pytest.mark.parametrize(
    ("reference", "words"),
    [("champion", "no 'champion'"), ("7", "no '7'"), ("nonsense", "neither 'champion'"), ("", "neither")],
)
def test_an_unknown_model_is_refused_in_words(registry, reference, words):
    with pytest.raises(InputError, match=words):
        registry.resolve(reference)


def test_unreachable_mlflow_is_a_service_error(workspace, make_bundle, closed_port):
    uri = f"http://127.0.0.1:{closed_port}"
    registry = Registry(TrackingConfig(uri=uri))
    for action in (registry.champion, registry.rollback, lambda: registry.register(make_bundle("a"))):
        with pytest.raises(ServiceError, match=uri):
            action()


def test_a_bundle_holds_no_pickle_and_no_code(registry, three, workspace):
    files = {path.name for path in (workspace / "mlartifacts" / "models").rglob("bundle/*") if path.is_file()}
    assert files == {"artifact.json", "model.safetensors", "config.json", "tokenizer.json", "manifest.json"}
    assert json.loads((workspace / "ledger.jsonl").read_text().splitlines()[0])["action"] == "promote"


def test_a_rolled_back_mark_is_on_the_version_that_was_left(registry, three):
    registry.rollback()
    assert [ROLLED_BACK in version.tags for version in registry.versions()] == [False, False, True]
