"""A stage's key follows what was asked for and what it is made from, and a changed key is explained in words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from components.core.artifact import Artifact
from components.core.errors import InputError
from components.core.identity import Identity, RecordedIdentity, leaves
from components.core.neutral import Neutral
from components.core.reachability import OPTION, reach
from components.core.run import Run


class Inner(BaseModel):
    width: int = 2
    dropout: Annotated[float, Neutral(0.0)] = 0.0


class Config(BaseModel):
    steps: int = 1
    inner: Inner = Inner()
    layers: list[Inner] = []
    schedule: Annotated[Inner | None, Neutral(None)] = None


FUNCTION = "tests.core.probe_stage:stage"


def identity(config: BaseModel | None = None, stage: str = "s", inputs: Mapping[str, str] | None = None) -> Identity:
    return Identity.of(stage, FUNCTION, config or Config(), inputs or {}, version_of=lambda name: "1")


def made_of(**parts: Any) -> Identity:
    given = {"config": {}, "inputs": {}, "code": {}, "environment": {}, **parts}
    return Identity.from_parts("s", **given)


def test_key_changes_with_each_of_its_parts_and_with_nothing_else() -> None:
    assert identity().key == identity().key
    others = [identity(stage="t"), identity(Config(steps=2)), identity(inputs={"data": "k"})]
    parts = [made_of(), made_of(code={"a.f": "1"}), made_of(environment={"torch": "1"})]
    assert len({each.key for each in [identity(), *others, *parts]}) == 7


@pytest.mark.parametrize(
    ("config", "moved"),
    [
        (Config(), False),
        (Config(inner=Inner(dropout=0.1)), True),
        (Config(schedule=Inner()), True),
        (Config(layers=[Inner()]), True),
        (Config(layers=[Inner(dropout=0.5)]), True),
    ],
)
def test_a_field_at_its_neutral_value_is_no_part_of_the_key(config: Config, moved: bool) -> None:
    class WithoutOptions(BaseModel):
        class Plain(BaseModel):
            width: int = 2

        steps: int = 1
        inner: Plain = Plain()
        layers: list[Plain] = []

    assert (identity(config).key != identity(WithoutOptions()).key) == moved


def test_neutral_fields_inside_lists_stay_out_of_the_key_too() -> None:
    class Plain(BaseModel):
        width: int = 2

    class Before(BaseModel):
        layers: list[Plain] = [Plain()]

    class After(BaseModel):
        layers: list[Inner] = [Inner()]

    assert identity(After()).key == identity(Before()).key
    assert identity(After()).changes_since(identity(Before())) == []


def test_the_record_shows_the_whole_configuration() -> None:
    assert identity().config["inner"] == {"width": 2, "dropout": 0.0}


def test_the_reason_names_fields_definitions_packages_and_inputs() -> None:
    older = made_of(
        config={"trainer": {"max_steps": 600}},
        code={"components.training.loader.Windows": "1", "components/data/world/person.txt": "1", "a.gone": "1"},
        environment={"torch": "2.13.0", "python": "3.11"},
        inputs={"prepared": "1"},
    )
    newer = made_of(
        config={"trainer": {"max_steps": 700}},
        code={"components.training.loader.Windows": "2", "components/data/world/person.txt": "2"},
        environment={"torch": "2.14.0", "python": "3.12"},
        inputs={"prepared": "2", "labels": "1"},
    )
    assert newer.changes_since(older) == [
        "trainer.max_steps 600 -> 700",
        "code changed: a.gone, components.training.loader.Windows",
        "data file changed: components/data/world/person.txt",
        "Python 3.11 -> 3.12",
        "package changed: torch 2.13.0 -> 2.14.0",
        "input changed: labels, prepared",
    ]
    assert newer.changes_since(newer) == []


def test_many_changed_definitions_are_counted_and_a_few_named() -> None:
    older, newer = (made_of(code={f"a.f{number}": digest for number in range(9)}) for digest in "12")
    assert newer.changes_since(older) == ["code changed: a.f0, a.f1, a.f2, a.f3 and 5 more"]


def test_an_option_that_arrives_later_is_no_reason_until_it_is_used() -> None:
    class Older(BaseModel):
        width: int = 2

    assert identity(Inner()).changes_since(identity(Older())) == []
    assert identity(Inner(dropout=0.5)).changes_since(identity(Older()))[0] == "dropout None -> 0.5"
    assert identity(Inner(dropout=0.5)).changes_since(identity(Inner()))[0] == "dropout 0.0 -> 0.5"


def test_the_declaration_of_an_option_in_use_is_code_but_no_reason_of_its_own() -> None:
    older = made_of(config={"clip": 0}, code={"a.Config": "1"})
    assert made_of(config={"clip": 1}, code={"a.Config": "1", f"a.Config.clip{OPTION}": "1"}).changes_since(older) == [
        "clip 0 -> 1"
    ]


def test_a_function_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="names no definition"):
        reach("components.pretrain:no_such_stage")


def test_equal_files_and_details_are_equal_content_whatever_the_run_took(tmp_path: Path) -> None:
    def made(name: str, text: str = "a", seconds: float = 1.0, **details: str) -> Artifact:
        run = Run.local(tmp_path / name)
        (run.folder / "text.txt").write_text(text)
        return run.seal({"seconds": seconds}, details)

    first = made("first").content
    assert made("slower", seconds=9.0).content == first
    assert first not in {made("other text", text="b").content, made("other details", of="b").content}


def test_a_record_keeps_the_identity_as_it_was(tmp_path: Path) -> None:
    wanted = identity()
    Artifact.seal(tmp_path, wanted, {})
    recorded = Artifact.open(tmp_path).record.identity
    assert type(recorded) is RecordedIdentity
    assert recorded.model_dump() == wanted.model_dump()


def test_leaves_are_named_by_their_path() -> None:
    assert dict(leaves({"a": {"b": 1, "c": [2]}, "d": None})) == {"a.b": 1, "a.c": [2], "d": None}
