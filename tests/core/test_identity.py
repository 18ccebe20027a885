"""A stage's key follows its config, inputs and the code that it really runs, and nothing else."""

import textwrap
from pathlib import Path

import pytest
from pydantic import BaseModel

from components.core import identity
from components.core.identity import Identity, source_digest


class Config(BaseModel):
    steps: int = 1


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small tree: stage -> helper (by ``from package import module``), and a bystander."""
    package = tmp_path / "components" / "part"
    package.mkdir(parents=True)
    (tmp_path / "components" / "__init__.py").write_text("")
    (package / "__init__.py").write_text('"""Doc."""')
    (package / "stage.py").write_text("from components.part import helper\n\ndef stage():\n    return helper.one()\n")
    (package / "helper.py").write_text("from .deep import TWO\n\ndef one():\n    return TWO - 1\n")
    (package / "deep.py").write_text("TWO = 2\n")
    (package / "bystander.py").write_text("X = 1\n")
    return tmp_path


def digest(root: Path) -> str:
    return source_digest("components.part.stage", root)


def test_an_edited_helper_far_down_the_imports_counts(source: Path) -> None:
    before = digest(source)
    (source / "components/part/deep.py").write_text("TWO = 3\n")
    assert digest(source) != before


def test_an_edited_package_initialiser_counts(source: Path) -> None:
    before = digest(source)
    (source / "components/part/__init__.py").write_text("LIMIT = 3\n")
    assert digest(source) != before


def test_a_module_that_is_not_imported_does_not_count(source: Path) -> None:
    before = digest(source)
    (source / "components/part/bystander.py").write_text("X = 2\n")
    assert digest(source) == before


def test_comments_docstrings_and_layout_do_not_count(source: Path) -> None:
    before = digest(source)
    (source / "components/part/helper.py").write_text(
        textwrap.dedent('''
        """What this is for."""
        from .deep import TWO  # the only constant

        def one():
            """One."""

            return (TWO - 1)
        ''')
    )
    assert digest(source) == before


def test_a_data_file_beside_a_module_counts(source: Path) -> None:
    before = digest(source)
    (source / "components/part/words.txt").write_text("alpha\n")
    assert digest(source) != before


def test_the_real_stages_reach_the_code_they_share() -> None:
    reached = identity._reachable("components.pretrain", identity.PROJECT_ROOT)
    assert {"components.core.atomic", "components.model.transformer", "components.data.shards"} <= reached.keys()
    assert not any(name.startswith("components.deployment") for name in reached)


def test_key_changes_with_each_of_its_parts_and_with_nothing_else() -> None:
    def key(stage: str = "s", steps: int = 1, inputs: dict[str, str] | None = None) -> str:
        return Identity.of(stage, "components.core.run", Config(steps=steps), inputs or {}).key

    assert key() == key()
    assert len({key(), key(stage="t"), key(steps=2), key(inputs={"data": "k"})}) == 4
