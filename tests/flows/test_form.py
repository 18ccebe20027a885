"""A run from the Prefect form reads, writes, reaches and needs only what the operator allows."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from components.core.errors import InputError
from components.data.addresses import PRIVATE_HOSTS
from conf.compose import compose_project, keys
from conf.form import FormConfig
from conf.schema import ProjectConfig
from flows import form as rules
from flows.catalogue import find_flow
from flows.execution import execute, plan
from flows.form import FORM, form_faults
from flows.plan import Planner
from flows.run import FlowRun
from flows.sweep import measured

# Texts that name no place: neither a file nor an address.
PLAIN = {
    *("model.name", "data.text_field", "data.document_separator", "cascade.helper.name", "facts.factscore.judge.name"),
    *("compare.tasks", "arena.judge.name"),
    *("facts.factscore.instruction", "facts.factscore.opening", "release.bundle.name", "release.smoke.prompt"),
    *("tracking.experiment", "tracking.registered_model", "versioning.region"),
    *("evaluate.name", "evaluate.tasks", "evaluate.endpoint.model", "evaluate.endpoint.start"),
    *("trainer.criterion", "finetune.training.criterion", "sweep.metric", "sweep.stage", "sweep.seed_key"),
    *(f"finetune.classify.data.{name}" for name in ("text_field", "label_field", "label_separator", "labels")),
}


@pytest.fixture
def texts(workspace: Path) -> Path:
    """A readable text in the workspace."""
    workspace.mkdir()
    (workspace / "a.txt").write_text("text")
    return workspace


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder outside the workspace, with a text in it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    return tmp_path / "outside"


def faults(*overrides: str, form: FormConfig | None = None) -> str:
    return "\n".join(form_faults(compose_project("world", overrides), form or FormConfig()))


def test_the_presets_and_files_of_the_workspace_are_allowed(texts: Path) -> None:
    assert faults() == ""
    assert faults(f"data.sources=[pydoc,{texts}/a.txt,{texts}/**/*.txt,'https://example.org/a.txt']") == ""
    assert faults(f"versioning.remote={texts}/remote", f"tracking.uri=sqlite:///{texts}/runs.db") == ""


def test_files_outside_are_refused_until_their_folder_is_a_root(texts: Path, outside: Path) -> None:
    for source in (f"{outside}/*.txt", f"{outside}/secret.txt", f"{texts}/../outside/secret.txt", f"hf://{outside}"):
        override = f"data.sources=['{source}']"
        said = faults(override)
        assert f"data.sources = {source!r}" in said
        assert f"allowed are {texts}" in said
        assert "form.data_roots" in said
        if ".." not in source:
            assert faults(override, form=FormConfig(data_roots=[str(outside)])) == ""


def test_a_link_in_the_workspace_leads_nowhere_else(texts: Path, outside: Path) -> None:
    (texts / "link.txt").symlink_to(outside / "secret.txt")
    (texts / "linked").symlink_to(outside)
    for source in ("link.txt", "*.txt", "linked/secret.txt", "linked/*.txt", "**/*.txt"):
        assert str(outside) in faults(f"data.sources=['{texts}/{source}']")


def test_a_glob_outside_is_refused_without_a_search(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "local_files", lambda source: pytest.fail(f"searched {source}"))
    assert "/etc/**/*.txt" in faults("data.sources=['/etc/**/*.txt']")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("delegation.reference=/etc", "delegation.reference"),
        ("cascade.helper.model=/etc", "cascade.helper.model"),
        ("facts.probes.files=[/etc/passwd]", "facts.probes.files"),
        ("facts.calculations.file=/etc/passwd", "facts.calculations.file"),
        ("facts.factscore.knowledge=[/etc/passwd]", "facts.factscore.knowledge"),
        ("label.pipeline=/etc", "label.pipeline"),
        ("label.pipeline=../x", "label.pipeline"),
        ("facts.factscore.pipeline=/etc", "facts.factscore.pipeline"),
        ("data.sources=['http://user:password@example.org/a.txt']", "data.sources"),
        ("data.sources=['https://example.org\\@127.0.0.1/a.txt']", "data.sources"),
        ("data.sources=['hf://squad']", "form.hosts"),
        ("compare.models=[champion,/etc]", "compare.models"),
        ("compare.models=[champion,'http://10.0.0.1:8000/v1#m']", "form.hosts"),
        ("finetune.distill.teacher=/etc", "finetune.distill.teacher"),
        ("arena.models=[3,../etc]", "arena.models"),
        ("arena.prompts=[/etc/passwd]", "arena.prompts"),
        ("arena.judge.url=http://10.0.0.1:8000/v1", "arena.judge.url"),
        ("tracking.uri=sqlite:////etc/x.db", "tracking.uri"),
        ("tracking.uri=sqlite:////{workspace}/%2e%2e/x.db", "tracking.uri"),
        ("tracking.uri='sqlite:////{workspace}/x.db?uri=true'", "tracking.uri"),
        ("tracking.uri=sqlite:////{workspace}/prefect/prefect.db", "platform's own"),
        ("tracking.uri=http://10.0.0.1:5000", "tracking.uri"),
        ("tracking.uri=postgresql://db/x", "tracking.uri"),
        ("versioning.remote=/etc/remote", "versioning.remote"),
        ("versioning.remote=/{workspace}/artifacts", "platform's own"),
        ("versioning.remote=/{workspace}", "platform's own"),
        ("versioning.remote=s3://bucket/path", "versioning.remote"),
        ("versioning.endpoint_url=http://169.254.169.254", "versioning.endpoint_url"),
    ],
)
def test_every_other_place_is_refused_by_its_key(texts: Path, override: str, key: str) -> None:
    assert key in faults(override.format(workspace=str(texts).lstrip("/")))


def test_a_teacher_that_writes_is_a_host_that_the_operator_has_listed(texts: Path) -> None:
    overrides = ["finetune.distill.text=written", "finetune.distill.teacher='http://10.0.0.1:8000/v1#large'"]
    assert "hosts that may be asked (form.hosts): none" in faults(*overrides)
    assert faults(*overrides, form=FormConfig(hosts=["10.0.0.1:8000"])) == ""


def test_the_operator_lists_hosts_and_places_to_write(texts: Path, outside: Path) -> None:
    overrides = ["cascade.helper.kind=endpoint", "cascade.helper.url=http://127.0.0.1:8001/v1"]
    assert "hosts that may be asked (form.hosts): none" in faults(*overrides)
    assert faults(*overrides, form=FormConfig(hosts=["127.0.0.1:8001"])) == ""
    assert "127.0.0.1:9000" in faults(*overrides, form=FormConfig(hosts=["127.0.0.1:9000"]))
    bucket = FormConfig(write_roots=["s3://bucket/path", str(outside)])
    assert faults("versioning.remote=s3://bucket/path/data", form=bucket) == ""
    assert faults(f"versioning.remote={outside}/remote", form=bucket) == ""
    assert faults(f"tracking.uri=sqlite:///{outside}/runs.db", form=bucket) == ""
    for remote in ("s3://bucket/path2", "s3://bucket/path/../other", "s3://bucket"):
        assert "form.write_roots" in faults(f"versioning.remote={remote}", form=bucket)
    assert faults("data.sources=['hf://squad']", form=FormConfig(hosts=["huggingface.co"])) == ""


@pytest.mark.parametrize(
    ("overrides", "gigabytes", "word"),
    [
        (["model.layers=100000"], 64, "model.layers=100000"),
        (["data.vocab_size=6400000000"], 64, "data.vocab_size=6400000000"),
        (["trainer.batch_size=10000000", "trainer.micro_batch_size=10000000"], 64, "trainer.micro_batch_size=10000000"),
        (["facts.resamples=1000000000000"], 64, "facts.resamples=1000000000000"),
        (["arena.resamples=1000000000000"], 64, "arena.resamples=1000000000000"),
        (["model=10m", "trainer=10m"], 0.05, "parameters with gradients"),
    ],
)
def test_what_memory_does_not_hold_is_refused_with_what_it_would_take(
    texts: Path, overrides: list[str], gigabytes: float, word: str
) -> None:
    said = faults(*overrides, form=FormConfig(memory_gb=gigabytes))
    for each in (word, "at least", f"{gigabytes:.1f} GB of memory (form.memory_gb)"):
        assert each in said
    assert faults(*overrides, form=FormConfig(memory_gb=1e9)) == ""


def test_a_world_that_the_disk_does_not_hold_is_refused(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_free_bytes", lambda: 10**9)
    assert "free disk space" in faults("data.world.entities=1000000", "data.world.documents_per_entity=1000")


def test_every_text_of_the_schema_is_checked_or_names_no_place(texts: Path) -> None:
    """A new setting that names a file or an address must get a rule for the form."""
    looked_at = set()

    class Recorder:
        def __init__(self, config: BaseModel, key: str = "") -> None:
            self.config, self.key = config, key

        def __getattr__(self, name: str) -> object:
            value = getattr(self.config, name)
            key = f"{self.key}.{name}".lstrip(".")
            looked_at.add(key)
            return Recorder(value, key) if isinstance(value, BaseModel) else value

    list(form_faults(Recorder(ProjectConfig()), FormConfig()))  # type: ignore[arg-type]
    texts_of_schema = {key for key in keys(ProjectConfig) if free_text(key)}
    assert texts_of_schema - looked_at == PLAIN - looked_at
    assert not PLAIN & looked_at


def free_text(key: str) -> bool:
    schema: type[BaseModel] = ProjectConfig
    *sections, name = key.split(".")
    for section in sections:
        schema = schema.model_fields[section].annotation  # type: ignore[assignment]
    return schema.model_fields[name].annotation in (str, list[str])


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Prefect says that this code is a run of a deployment."""
    import prefect.runtime  # noqa: F401

    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "3f0c1f5e-0000-4000-8000-000000000000")
    before = os.environ.get(PRIVATE_HOSTS)
    yield
    os.environ.pop(PRIVATE_HOSTS) if before is None else os.environ.update({PRIVATE_HOSTS: before})


def test_a_run_of_a_deployment_is_bound_by_the_rules(
    texts: Path, outside: Path, deployed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FORM, FormConfig(hosts=["data.example.org"]).model_dump_json())
    with pytest.raises(InputError, match=r"form may not.*\n.*secret\.txt.*\n.*command line"):
        execute(find_flow("prepare"), "world", [f"data.sources=[{outside}/secret.txt]"])
    assert os.environ[PRIVATE_HOSTS] == "data.example.org"
    assert not (texts / "artifacts").exists()


def test_a_trial_of_a_sweep_is_bound_by_them_too(texts: Path, outside: Path, deployed: None) -> None:
    run = FlowRun("sweep", "world", [], compose_project("world", []), Planner(), dry=True)
    with pytest.raises(InputError, match=r"form may not.*\n.*secret\.txt"):
        measured(run, "trial-0", [f"data.sources=[{outside}/secret.txt]"])


def test_the_command_line_is_not_bound_by_them(texts: Path, outside: Path) -> None:
    run = plan(find_flow("prepare"), "world", [f"data.sources=[{outside}/secret.txt]"])
    assert run.outcomes["prepare"].status == "planned"
    assert PRIVATE_HOSTS not in os.environ
