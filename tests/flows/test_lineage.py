"""What a model was made from, whether it still matches, and how it is built again."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.core.artifact import RECORD, Artifact
from components.core.errors import ArtifactError, InputError
from components.core.identity import Identity
from components.core.packages import installed_version
from components.core.record_digest import keep_record_digest
from components.core.run import Run
from conf.services import TrackingConfig, VersioningConfig
from flows.adapters.mlflow_registry import Version
from flows.lineage import as_json, lineage
from flows.promotion import CHAMPION, Registry
from flows.reproduce import Comparison, changed_packages, command, compared, rebuilt, weights_equal
from flows.verify import verified
from flows.workspace import artifact_folder

Make = Callable[..., Artifact]


@pytest.fixture
def make(workspace: Path) -> Make:
    """Seal an artifact whose key follows from its parts, in the workspace or below ``root``."""

    def sealed(
        stage: str, inputs: Mapping[str, str], files: Mapping[str, str], seed: int = 0, root: Path | None = None
    ) -> Artifact:
        parts = {"config": {"seed": seed}, "inputs": dict(inputs), "code": {"a.b": "c0de"}}
        identity = Identity.from_parts(stage, **parts, environment={"torch": "1.0.0"})
        folder = artifact_folder(stage, identity.key)
        run = Run.recorded(root / folder.relative_to(workspace) if root else folder, identity)
        for name, content in files.items():
            (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (run.folder / name).write_text(content)
        artifact = run.seal({}, {})
        keep_record_digest(artifact)
        return artifact

    return sealed


def line(make: Make, weights: str = "weights", seed: int = 0, root: Path | None = None) -> tuple[Artifact, ...]:
    """Data, a model of it, and a bundle of both."""
    data = make("prepare", {"world": "world:0123456789"}, {"raw/world/facts.jsonl": "{}", "shards/0": "12"}, root=root)
    model = make("pretrain", {"prepared": data.content}, {"model/model.safetensors": weights}, seed, root)
    files = {"model.safetensors": weights, "manifest.json": "{}"}
    return data, model, make("bundle", {"delegated": model.content, "prepared": data.content}, files, root=root)


def test_a_lineage_leads_to_what_came_from_outside(make: Make) -> None:
    data, model, bundle = line(make)
    origin = lineage(bundle)
    assert [each.name for each in origin.inputs] == ["delegated", "prepared"]
    assert [artifact.key for artifact in origin.artifacts()] == [data.key, model.key, bundle.key], "each once, in order"
    world = origin.inputs[1].inputs[0]
    assert (world.name, world.outside, world.missing) == ("world", True, False)
    told = json.loads(json.dumps(as_json(origin)))
    assert told["key"] == bundle.key
    assert list(told["inputs"][1]["raw"]) == ["raw/world/facts.jsonl"]


def test_what_is_no_longer_there_is_named(make: Make) -> None:
    _, _, bundle = line(make)
    alone = make("bundle", {"delegated": "f" * 32, "prepared": bundle.record.identity.inputs["prepared"]}, {"a": "b"})
    assert lineage(alone).lost() == ["delegated"]
    assert as_json(lineage(alone))["inputs"][0] == {
        "name": "delegated",
        "content": "f" * 32,
        "missing": True,
        "inputs": [],
    }


def test_of_two_with_the_same_content_the_one_counts_that_was_there_when_it_was_read(make: Make) -> None:
    first = make("prepare", {}, {"shards/0": "12"}, seed=1)
    bundle = make("bundle", {"prepared": first.content}, {"a": "b"})
    later = make("prepare", {}, {"shards/0": "12"}, seed=2)
    assert later.content == first.content
    (read,) = lineage(bundle).inputs
    assert read.artifact is not None
    assert read.artifact.key == first.key


@pytest.mark.usefixtures("database")
def test_what_was_altered_is_named_wherever_in_the_chain_it_is(make: Make) -> None:
    data, model, bundle = line(make)
    registry = Registry(TrackingConfig())
    version = registry.promote(registry.register(bundle).number, "good")

    def rows() -> list[tuple[str, str]]:
        return list(verified(registry, version, lineage(bundle)))

    assert [name for name, _ in rows()] == [
        "ledger", "registered", *(f"{each.stage} {each.key[:16]}" for each in (data, model, bundle))
    ]  # fmt: skip
    raw = data.folder / "raw/world/facts.jsonl"
    raw.write_text("[]")
    with pytest.raises(ArtifactError, match=f"prepare {data.key[:16]} .* raw/world/facts.jsonl was altered"):
        rows()
    raw.write_text("{}")
    record = (model.folder / RECORD).read_text()
    (model.folder / RECORD).write_text(record.replace('"metrics": {}', '"metrics": {"loss": 0.1}'))
    with pytest.raises(ArtifactError, match=f"pretrain {model.key[:16]} .* was altered"):
        rows()
    (model.folder / RECORD).write_text(record)
    ledger = registry.ledger.path
    lines = ledger.read_text()
    ledger.write_text(lines.replace('"reason":"good"', '"reason":"paid"', 1))
    with pytest.raises(ArtifactError, match=r"the ledger is not as it was written: .*line 2"):
        rows()
    ledger.write_text(lines)
    assert rows()


@pytest.mark.usefixtures("database")
def test_a_key_that_does_not_follow_from_its_parts_is_named(make: Make) -> None:
    data, _, bundle = line(make)
    path = data.folder / RECORD
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))
    keep_record_digest(Artifact.open(data.folder), again=True)
    with pytest.raises(ArtifactError, match=r"its key in artifact\.json does not follow from the parts"):
        list(verified(Registry(TrackingConfig()), None, lineage(bundle)))


def test_a_decision_is_written_down_once_with_its_receipt(database: Path, make: Make) -> None:
    registry = Registry(TrackingConfig())
    champion = registry.promote(registry.register(line(make)[2]).number, "good")
    other = registry.register(line(make, "other", seed=1)[2])
    for _ in range(2):
        registry.decided(other, "refuse", "worse")
    refused = registry.ledger.entries()[-1]
    assert [(each.action, each.version) for each in registry.ledger.entries()] == [("promote", 1), ("refuse", 2)]
    assert (refused.previous, refused.reason) == (champion.number, "worse")
    registry.decided(other, "hold", "not told apart")
    assert len(registry.ledger.entries()) == 3
    assert registry.ledger_fault() is None
    assert registry.version(CHAMPION) == champion
    content = registry.ledger.path.read_bytes().splitlines(keepends=True)
    registry.ledger.path.write_bytes(b"".join(content[:-1]))
    assert "version 2" in str(registry.ledger_fault())


def version(**tags: str) -> Version:
    return Version("lacewing", 3, {f"lacewing.{name}": value for name, value in tags.items()}, datetime.now(UTC))


def test_the_command_of_a_version_leaves_out_where_results_went() -> None:
    overrides = '["trainer.seed=1", "tracking.uri=http://a", "versioning.remote=/b"]'
    made = version(flow="release", preset="world", overrides=overrides)
    assert command(made) == ["pipeline", "experiment=world", "trainer.seed=1"]
    with pytest.raises(InputError, match=r"does not say how it was made \(it has no tag lacewing.preset\)"):
        command(version(flow="pipeline"))


def test_artifacts_are_compared_with_those_that_were_built_again(make: Make, tmp_path: Path) -> None:
    made, again = line(make), line(make, "others", seed=5, root=tmp_path / "again")
    pairs = list(compared(lineage(made[2]), lineage(again[2], tmp_path / "again")))
    assert [each.same for each in pairs] == [True, False, False]
    assert str(pairs[1]) == "differs in model/model.safetensors (seed 0 -> 5)"
    assert not weights_equal(lineage(made[2]), lineage(again[2]))
    assert weights_equal(lineage(made[2]), lineage(made[2]))
    assert str(Comparison(made[0], None)) == "not built"


def test_packages_that_changed_are_named(make: Make) -> None:
    assert changed_packages(lineage(line(make)[2])) == [f"torch 1.0.0 -> {installed_version('torch')}"]


@pytest.mark.usefixtures("database")
def test_a_model_is_never_built_again_over_itself(make: Make, workspace: Path) -> None:
    origin = lineage(line(make)[2])
    with pytest.raises(InputError, match="is the workspace of the model itself"):
        rebuilt(version(flow="pipeline", preset="world", overrides="[]"), origin, workspace, VersioningConfig())
