"""Configuration: presets load, overrides are checked at the border, and every way in gives the same result."""

import threading
from pathlib import Path

import pytest
from pydantic import BaseModel

from components.core.errors import InputError
from conf.compose import GROUPS, Preset, choices, compose_project, compose_section, digest, keys
from conf.schema import ProjectConfig, ServeCommandConfig, UpConfig


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "experiment"])
def test_every_shipped_choice_of_every_group_is_valid(group: str) -> None:
    for choice in choices(group):
        compose_project("world", [f"{group}={choice}", "data.sources=[something.txt]"])


def test_the_form_offers_every_shipped_experiment() -> None:
    assert sorted(Preset) == choices("experiment")


@pytest.mark.parametrize("preset", list(Preset))
def test_every_preset_is_valid(preset: Preset) -> None:
    compose_project(preset, ["data.sources=[something.txt]"])


def test_the_preset_for_ones_own_text_asks_for_it() -> None:
    with pytest.raises(InputError, match=r"data\.sources"):
        compose_project("text")


def test_defaults_of_the_files_are_the_defaults_of_the_schema() -> None:
    assert compose_project() == ProjectConfig()


def test_an_override_changes_one_value_and_the_digest() -> None:
    changed = compose_project("world", ["trainer.max_steps=7"])
    assert changed.trainer.max_steps == 7
    assert changed.model_copy(update={"trainer": ProjectConfig().trainer}) == ProjectConfig()
    assert digest(changed) != digest(ProjectConfig())
    assert digest(changed) == digest(compose_project("world", ["trainer.max_steps=7"]))


def test_an_override_wins_over_the_choice_of_its_group() -> None:
    assert compose_project("world", ["model.layers=3", "model=10m"]).model.layers == 3


def test_lists_and_paths_pass_through() -> None:
    config = compose_project("text", ["data.sources=[../a b/x.jsonl.gz, https://example.org/y.txt]"])
    assert config.data.sources == ["../a b/x.jsonl.gz", "https://example.org/y.txt"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_step=3", "did you mean trainer.max_steps"),
        ("nonsense=3", "unknown key 'nonsense'"),
        ("trainer.max_steps=many", "trainer.max_steps = 'many'"),
        ("trainer.max_steps=0", "greater than 0"),
        ("trainer.learning_rate=-1", "greater than 0"),
        ("model=900b", "choices are"),
        ("model=../secrets", "choices are"),
        ("+trainer.extra=1", "write key=value"),
        ("++trainer.max_steps=1", "write key=value"),
        ("~trainer", "write key=value"),
        ("trainer", "write key=value"),
        ("hydra.run.dir=x", "unknown key"),
        ("hydra/launcher=joblib", "write key=value"),
        ("model@trainer=10m", "write key=value"),
        ("trainer.seed=${oc.env:HOME}", "may not interpolate"),
        ("data.sources=[${oc.env:HOME}]", "may not interpolate"),
        ("trainer={_target_:os.getcwd}", "may not"),
        ("trainer.seed='unclosed", "a bracket or quote is not closed"),
        ("data.text_field=" + "x" * 5000, "4096 allowed"),
        ("trainer=5", "unknown trainer '5'"),
    ],
)
def test_bad_overrides_are_refused_in_the_users_words(override: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        compose_project("world", [override])
    assert words in str(caught.value)


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"presets are .*text.*world"):
        compose_project("../../etc", [])


def test_commands_without_groups_are_composed_the_same_way() -> None:
    assert compose_section(UpConfig, ["prefect_port=4300"]).prefect_port == 4300
    assert compose_section(ServeCommandConfig, ["model=3", "tracking.uri=http://127.0.0.1:5000"]).model == "3"
    with pytest.raises(InputError, match="unknown key 'model'"):
        compose_section(UpConfig, ["model=10m"])


def test_composing_from_many_threads_gives_every_one_its_own_result() -> None:
    """Hydra alone fails here: its compose works on a process-wide singleton."""
    found: dict[int, int] = {}

    def compose(steps: int) -> None:
        found[steps] = compose_project("world", [f"trainer.max_steps={steps}"]).trainer.max_steps

    threads = [threading.Thread(target=compose, args=(steps,)) for steps in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {steps: steps for steps in range(1, 9)}


def test_every_field_of_every_section_says_what_it_means() -> None:
    def undocumented(schema: type[BaseModel], prefix: str = "") -> list[str]:
        missing: list[str] = []
        for name, field in schema.model_fields.items():
            if not field.description:
                missing.append(prefix + name)
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                missing += undocumented(field.annotation, f"{prefix}{name}.")
        return missing

    assert undocumented(ProjectConfig) + undocumented(ServeCommandConfig) + undocumented(UpConfig) == []


def test_yaml_holds_values_only() -> None:
    folder = Path(__file__).resolve().parents[2] / "conf"
    assert not [path for path in folder.rglob("*.yaml") if "_target_" in path.read_text()]
    assert "trainer.max_steps" in set(keys(ProjectConfig))


def test_only_selections_that_use_the_helper_train_anew_when_it_changes() -> None:
    """A time-out of the helper must not make a finished model stale; who it is does, where training asks it."""
    patient = ["cascade.helper.timeout_seconds=9"]
    assert compose_project("world", patient).delegate == compose_project("world").delegate
    asked = ["delegation.selection=helper_gain", "cascade.helper.kind=model", "cascade.helper.model=larger"]
    assert compose_project("world", asked).delegate.helper.model == "larger"
    assert compose_project("world", [*asked, *patient]).delegate == compose_project("world", asked).delegate


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("delegation.budget=1.2", "less than or equal to 1"),
        ("cascade.budget=-0.1", "greater than or equal to 0"),
        ("study.seeds=[1,1]", "each once"),
        ("study.selections=[lacy,oracle]", "'ntp', 'loss'"),
        ("cascade.helper.kind=endpoint", "helper.url"),
        ("cascade.helper.kind=model", "helper.model"),
        ("facts.budgets=[0.5,0.1]", "in order"),
    ],
)
def test_settings_of_delegation_are_refused_with_what_is_allowed(override: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        compose_project("world", [override])
