import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, InputError, ServiceError
from components.core.record_digest import keep_record_digest
from conf.services import VersioningConfig
from flows.adapters import dvc
from flows.adapters.dvc import DvcStore
from flows.sync import sync
from flows.workspace import WORKSPACE, artifact_folder

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def cfg(tmp_path: Path) -> VersioningConfig:
    return VersioningConfig(remote=str(tmp_path / "remote"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Switch to an empty workspace that knows the remote's address and nothing else."""

    def switch() -> Path:
        monkeypatch.setenv(WORKSPACE, str(tmp_path / "elsewhere"))
        return tmp_path / "elsewhere"

    return switch


def versioned_by_another_process(artifact: Artifact, cfg: VersioningConfig) -> str:
    """Python code that does what a flow does after ``prepare``."""
    return (
        "from pathlib import Path; from components.core.artifact import Artifact;"
        "from conf.services import VersioningConfig; from flows.adapters import dvc;"
        f"artifact = Artifact.open(Path({str(artifact.folder)!r}));"
        f"dvc.ensure_versioned(artifact, VersioningConfig(remote={cfg.remote!r}))"
    )


def objects(cfg: VersioningConfig) -> list[Path]:
    return [path for path in (Path(cfg.remote) / "files").rglob("*") if path.is_file()]


def test_a_version_names_digest_size_files_and_remote(data, cfg):
    versions = dvc.ensure_versioned(data, cfg)
    assert [version.path for version in versions] == ["raw", "shards", "tokenizer"]
    shards = versions[1]
    assert (shards.size, shards.nfiles, shards.remote, shards.pushed) == (1002, 2, cfg.remote, True)
    assert shards.md5.endswith(".dir")
    assert json.loads((data.folder / "versions.json").read_text()) == [v.model_dump() for v in versions]
    assert data.fault() is None, "the artifact itself is as it was"
    for word in (f"prepare-{data.key}", shards.md5[:8], cfg.remote, "MB"):
        assert word in dvc.describe(data)


def test_a_version_comes_back_whole_into_an_empty_workspace(data, cfg, elsewhere):
    versions = dvc.ensure_versioned(data, cfg)
    workspace = elsewhere()
    pulled = dvc.pull(f"prepare-{data.key}", cfg)
    assert pulled.folder == artifact_folder("prepare", data.key)
    assert workspace in pulled.folder.parents
    assert pulled.record == data.record
    assert pulled.verify() is pulled
    assert (pulled.folder / "shards/train.bin").read_bytes() == (data.folder / "shards/train.bin").read_bytes()
    assert dvc.recorded(pulled) == versions
    assert dvc.ensure_versioned(pulled, cfg) == versions


@pytest.mark.parametrize("reference", ["prepare", "prepare-{key:.6}", "{key:.6}", "{key}"])
def test_the_beginning_of_a_name_or_key_is_enough(data, cfg, elsewhere, reference):
    dvc.ensure_versioned(data, cfg)
    elsewhere()
    assert dvc.pull(reference.format(key=data.key), cfg).key == data.key


def test_the_default_remote_is_in_the_workspace(data, workspace):
    dvc.ensure_versioned(data, VersioningConfig())
    assert (workspace / "remote/lacewing" / f"prepare-{data.key}.json").is_file()


def dvc_by_hand(workspace: Path, *arguments: str) -> str:
    """What a person sees who types ``dvc`` in the workspace."""
    command = [sys.executable, "-m", "dvc", *arguments]
    wide = {**os.environ, "COLUMNS": "1000"}  # long paths would be wrapped
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=120, env=wide)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dvc_by_hand_knows_the_remote_from_the_beginning(workspace):
    dvc.initialize()
    assert dvc_by_hand(workspace, "remote", "list").split() == ["lacewing", str(workspace / "remote"), "(default)"]


def test_dvc_by_hand_pulls_what_was_pushed_here(data, cfg, workspace):
    dvc.ensure_versioned(data, cfg)
    assert dvc_by_hand(workspace, "remote", "list").split() == ["lacewing", cfg.remote, "(default)"]
    shutil.rmtree(data.folder / "shards")
    shutil.rmtree(workspace / ".dvc" / "cache")
    dvc_by_hand(workspace, "pull")
    assert data.fault() is None


def test_the_default_remote_moves_with_the_workspace_and_other_settings_stay(data, workspace, tmp_path, cfg):
    dvc.ensure_versioned(data, cfg)
    dvc_by_hand(workspace, "remote", "add", "mine", "/somewhere")
    dvc.ensure_versioned(data, VersioningConfig())
    assert "url = ../remote" in (workspace / ".dvc" / "config").read_text()
    assert "/somewhere" in dvc_by_hand(workspace, "remote", "list")
    workspace.rename(tmp_path / "moved")
    assert str(tmp_path / "moved" / "remote") in dvc_by_hand(tmp_path / "moved", "remote", "list")


def test_the_configuration_of_dvc_is_written_only_when_the_remote_changes(data, cfg, workspace):
    dvc.ensure_versioned(data, cfg)
    before = (workspace / ".dvc" / "config").stat().st_mtime_ns
    assert DvcStore(cfg).names()
    assert (workspace / ".dvc" / "config").stat().st_mtime_ns == before


def test_a_name_from_the_list_can_be_typed_whole_into_an_empty_workspace(data, cfg, elsewhere):
    dvc.ensure_versioned(data, cfg)
    remote = f"versioning.remote={cfg.remote}"

    def lacewing(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "80"}
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    listed = lacewing("data", "list", remote).stdout
    (name,) = [word for word in listed.split() if word.startswith("prepare-")]
    assert max(map(len, listed.splitlines())) <= 80
    workspace = elsewhere()
    refused = lacewing("data", "pull", name)
    assert refused.returncode == 2
    assert "versioning.remote=" in refused.stderr
    pulled = lacewing("data", "pull", name, remote)
    assert pulled.returncode == 0, pulled.stderr
    assert Artifact.open(next((workspace / "artifacts" / "prepare").iterdir())).fault() is None


def test_an_unknown_version_is_refused_with_what_the_remote_has(data, cfg):
    dvc.ensure_versioned(data, cfg)
    with pytest.raises(InputError, match=f"holds prepare-{data.key}"):
        dvc.pull("nonsense", cfg)
    with pytest.raises(InputError, match="no versions at all"):
        dvc.pull("prepare", VersioningConfig(remote=cfg.remote + "2"))


def test_an_ambiguous_reference_is_refused(data, make_artifact, cfg):
    other = make_artifact("prepare", {"raw/b": "b"})
    dvc.ensure_versioned(data, cfg)
    dvc.ensure_versioned(other, cfg)
    with pytest.raises(InputError, match="more than one"):
        dvc.pull("prepare", cfg)


def test_list_shows_every_version(data, make_artifact, cfg):
    other = make_artifact("prepare", {"raw/b": "b"})
    dvc.ensure_versioned(other, cfg)
    dvc.ensure_versioned(data, cfg)
    assert [name for name, _ in dvc.listed(cfg)] == [f"prepare-{data.key}", f"prepare-{other.key}"]


def test_an_altered_local_artifact_is_repaired_by_pull(data, cfg):
    dvc.ensure_versioned(data, cfg)
    (data.folder / "shards/train.bin").write_bytes(b"\2\1" * 500)
    shutil.rmtree(data.folder / "raw")
    assert dvc.pull(data.key, cfg).fault() is None


def test_an_edited_record_is_repaired_by_pull(data, cfg):
    dvc.ensure_versioned(data, cfg)
    keep_record_digest(data)
    record = data.folder / "artifact.json"
    sealed = record.read_text()
    for damaged in (sealed.replace('"vocab_size": 512', '"vocab_size": 1024'), sealed[:100]):
        record.write_text(damaged)
        assert dvc.pull(data.key, cfg).record == data.record
        assert record.read_text() == sealed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"path": "raw",\n', r"Invalid JSON: .* at line 2"),
        ("{}", ".*valid array"),
        ('[{"path": "raw", "md5": "x"}]', r"0\.md5: String should match"),
    ],
)
def test_a_damaged_note_of_the_versions_is_named(data, cfg, content, words):
    path = data.folder / "versions.json"
    path.write_text(content)
    for use in (dvc.recorded, dvc.describe, lambda artifact: dvc.ensure_versioned(artifact, cfg)):
        with pytest.raises(ArtifactError, match=rf"{path} is damaged: {words}.*Delete it"):
            use(data)
    path.unlink()
    assert dvc.ensure_versioned(data, cfg)


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_remote_object_is_an_error_and_leaves_no_artifact(data, cfg, elsewhere, damage):
    dvc.ensure_versioned(data, cfg)
    victim = max(objects(cfg), key=lambda path: path.stat().st_size)
    content = victim.read_bytes()
    victim.chmod(0o644)
    victim.unlink()
    if damage != "missing":
        victim.write_bytes(content[:10] if damage == "truncated" else b"x" + content[1:])
    elsewhere()
    with pytest.raises(ArtifactError, match="damaged"):
        dvc.pull(data.key, cfg)
    assert not (artifact_folder("prepare", data.key) / "artifact.json").exists()
    victim.write_bytes(content)  # repaired: nothing bad has stayed in the cache
    assert dvc.pull(data.key, cfg).fault() is None


@pytest.mark.parametrize(
    "harm",
    [
        lambda pointer: pointer["versions"][0].update(path="../../outside"),
        lambda pointer: pointer["versions"][0].update(path=".."),
        lambda pointer: pointer["record"]["identity"].update(stage="../x"),
        lambda pointer: pointer.pop("versions"),
    ],
)
def test_a_remote_cannot_make_us_write_elsewhere(data, cfg, elsewhere, harm):
    dvc.ensure_versioned(data, cfg)
    path = Path(cfg.remote) / "lacewing" / f"prepare-{data.key}.json"
    pointer = json.loads(path.read_text())
    harm(pointer)
    path.write_text(json.dumps(pointer))
    elsewhere()
    with pytest.raises(ArtifactError, match="cannot be read"):
        dvc.pull(data.key, cfg)


def test_unreachable_remote_keeps_the_work_and_says_how_to_resend(data, tmp_path, capsys, elsewhere):
    (tmp_path / "mounted").write_text("a file where the remote's folder should be")
    cfg = VersioningConfig(remote=str(tmp_path / "mounted" / "remote"))
    versions = dvc.ensure_versioned(data, cfg)
    assert not any(version.pushed for version in versions)
    assert "not yet pushed" in dvc.describe(data)
    warning = capsys.readouterr().err
    for word in (cfg.remote, f"prepare-{data.key}", "lacewing sync"):
        assert word in warning
    with pytest.raises(ServiceError, match="remote"):
        dvc.pull(data.key, cfg)
    (tmp_path / "mounted").unlink()  # the remote is back
    assert all(version.pushed for version in dvc.ensure_versioned(data, cfg))
    elsewhere()
    assert dvc.pull(data.key, cfg).fault() is None


def test_unreachable_s3_remote_fails_within_its_time(data, closed_port, monkeypatch, capsys):
    pytest.importorskip("dvc_s3", reason="the s3 extra is not installed")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    cfg = VersioningConfig(remote="s3://bucket/lacewing", endpoint_url=f"http://127.0.0.1:{closed_port}", region="eu")
    started = time.monotonic()
    versions = dvc.ensure_versioned(data, cfg)
    assert time.monotonic() - started < 60
    assert not versions[0].pushed
    assert "s3://bucket/lacewing" in capsys.readouterr().err


def test_without_push_nothing_leaves_the_workspace(data, cfg):
    quiet = cfg.model_copy(update={"push": False})
    assert not any(version.pushed for version in dvc.ensure_versioned(data, quiet))
    assert not Path(cfg.remote).exists()


def test_a_versioned_artifact_does_not_load_dvc_again(data, cfg):
    dvc.ensure_versioned(data, cfg)
    code = f"import sys; {versioned_by_another_process(data, cfg)}; print('dvc' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT) == "False\n"


def test_a_new_remote_gets_the_version_too(data, cfg, tmp_path):
    dvc.ensure_versioned(data, cfg)
    other = VersioningConfig(remote=str(tmp_path / "second"))
    assert all(version.pushed for version in dvc.ensure_versioned(data, other))
    assert len(objects(other)) == len(objects(cfg))


def test_a_remote_that_was_emptied_is_filled_again_by_sync(data, cfg, elsewhere):
    from conf.services import TrackingConfig

    dvc.ensure_versioned(data, cfg)
    shutil.rmtree(cfg.remote)
    sync(TrackingConfig(), cfg)
    elsewhere()
    assert dvc.pull(data.key, cfg).fault() is None


def test_four_processes_add_and_push_at_once(make_artifact, cfg):
    """Plain DVC: one or two of four fail with "Unable to acquire lock"."""
    artifacts = [make_artifact("prepare", {"raw/a": f"{n}" * 1000, "tok": f"{n}"}) for n in range(4)]
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=_version, args=(str(artifact.folder), cfg.remote)) for artifact in artifacts]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
    assert [job.exitcode for job in jobs] == [0, 0, 0, 0]
    assert set(DvcStore(cfg).names()) == {f"prepare-{artifact.key}" for artifact in artifacts}


def _version(folder: str, remote: str) -> None:
    versions = dvc.ensure_versioned(Artifact.open(Path(folder)), VersioningConfig(remote=remote))
    assert all(version.pushed for version in versions)


def test_a_person_using_dvc_by_hand_is_waited_for(data, cfg, workspace):
    """DVC's own lock, held by another process, makes DVC fail at once; the store tries again."""
    dvc.ensure_versioned(data, cfg)
    code = (
        "import sys, time; from dvc.repo import Repo; repo = Repo(sys.argv[1]);\n"
        "with repo.lock: print('locked', flush=True); time.sleep(6)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(workspace)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        DvcStore(cfg).push(data, dvc.recorded(data))
    finally:
        other.wait(30)
        other.stdout.close()


def test_nothing_is_written_outside_workspace_and_remote_and_no_process_is_left(data, cfg, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    code = versioned_by_another_process(data, cfg)
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("XDG")} | {"HOME": str(home)}
    subprocess.run([sys.executable, "-c", code], env=quiet, check=True, cwd=ROOT)
    assert not [path for path in home.rglob("*") if path.is_file()]
    running = subprocess.check_output(["ps", "-eo", "args"], text=True) if shutil.which("ps") else ""
    assert "dvc daemon" not in running
