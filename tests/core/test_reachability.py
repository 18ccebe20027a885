"""What a function executes, as its source says: each test is a small tree, an edit, and whether the edit counts."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from components.core.reachability import FIRST_PARTY, OPTION, PROJECT_ROOT, Reach, reach

Write = Callable[[str, str], None]

TREE = {
    name: textwrap.dedent(text)
    for name, text in {
        "part/stage.py": """
        from components.part import helper
        from components.part.kinds import Kind as K

        def stage():
            return helper.one(K())
        """,
        "part/helper.py": """
        from .deep import TWO
        from components.part.kinds import unused

        def one(kind):
            return TWO - 1

        def other():
            return unused()

        class UnusedError(Exception):
            pass
        """,
        "part/deep.py": "TWO = 2\nTHREE = 3\n",
        "part/kinds.py": """
        class Base:
            def shared(self):
                return 1

        class Kind(Base):
            def method(self):
                return 1

        def unused():
            return 1
        """,
        "part/bystander.py": "X = 1\n",
    }.items()
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> None:
        path = tmp_path / "components" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    write("__init__.py", "")
    write("part/__init__.py", '"""Doc."""')
    for name, text in TREE.items():
        write(name, text)
    return write


def reached(root: Path, *also: str) -> Reach:
    return reach("components.part.stage:stage", root, also)


def changed(before: Reach, after: Reach) -> set[str]:
    names = before.code.keys() | after.code.keys()
    return {name.removeprefix("components.part.") for name in names if before.code.get(name) != after.code.get(name)}


def test_what_is_reached(write: Write, tmp_path: Path) -> None:
    names = {name.removeprefix("components.part.") for name in reached(tmp_path).code}
    assert names == {"stage.stage", "helper.one", "deep.TWO", "kinds.Kind", "kinds.Base"}


@pytest.mark.parametrize(
    ("file", "old", "new", "names"),
    [
        ("part/deep.py", "TWO = 2", "TWO = 3", {"deep.TWO"}),
        ("part/deep.py", "THREE = 3", "THREE = 4", set()),
        ("part/helper.py", "return unused()", "return 2", set()),
        ("part/helper.py", "class UnusedError", "class AnotherError", set()),
        ("part/kinds.py", "def method(self):\n        return 1", "def method(self):\n        return 2", {"kinds.Kind"}),
        ("part/kinds.py", "def shared(self):\n        return 1", "def shared(self):\n        return 2", {"kinds.Base"}),
        ("part/bystander.py", "X = 1", "X = 2", set()),
        ("part/helper.py", "def one(kind):", 'def one(kind):  # why\n    """One."""\n', set()),
        ("part/helper.py", "return TWO - 1", "return (TWO\n            - 1)", set()),
        ("part/helper.py", "import TWO", "import THREE as TWO", {"helper.one", "deep.TWO", "deep.THREE"}),
    ],
)
def test_an_edit_counts_where_it_is_executed(
    write: Write, tmp_path: Path, file: str, old: str, new: str, names: set[str]
) -> None:
    before = reached(tmp_path)
    text = (tmp_path / "components" / file).read_text()
    assert old in text
    write(file, text.replace(old, new))
    assert changed(before, reached(tmp_path)) == names


REFERENCES = {
    "a default argument": "from components.part.bystander import X\ndef stage(x=X): ...",
    "a decorator": "from components.part import bystander\n@bystander.X\ndef stage(): ...",
    "an annotation": "from components.part.bystander import X\ndef stage(x: X): ...",
    "a quoted annotation": "from components.part.bystander import X\ndef stage(x: 'list[X]'): ...",
    "an import inside the function": "def stage():\n    from components.part.bystander import X\n    return X",
    "a dotted import": "import components.part.bystander\ndef stage():\n    return components.part.bystander.X",
    "an alias": "import components.part.bystander as b\ndef stage():\n    return b.X",
    "a star import": "from components.part.bystander import *\ndef stage():\n    return X",
    "a module handed on": "from components.part import bystander\ndef stage():\n    return vars(bystander)",
    "getattr on a module": "from components.part import bystander\ndef stage(n):\n    return getattr(bystander, n)",
    "a class body": "from components.part.bystander import X\nclass C:\n    y: int = X\ndef stage():\n    return C",
    "a table": "from components.part.bystander import X\nTABLE = {'x': X}\ndef stage(name):\n    return TABLE[name]",
    "an import by name": "from importlib import import_module\ndef stage(name):\n    return import_module(name)",
    "a search of subclasses": "def stage(base):\n    return base.__subclasses__()",
    "a global": "from components.part import bystander\ndef stage():\n    bystander.X = 3",
    "a reference in a string": "def stage(load):\n    return load('components.part.bystander:X')",
    "a process": "def stage(run):\n    run('python', '-m', 'components.part.bystander')",
    "globals": "from components.part.bystander import X\ndef used(): return X\ndef stage(n): return globals()[n]",
    "a package's own names": "from components import part\ndef stage():\n    return part.again",
}


@pytest.mark.parametrize("source", REFERENCES.values(), ids=REFERENCES)
def test_a_definition_is_reached_by(write: Write, tmp_path: Path, source: str) -> None:
    write("part/__init__.py", "from .bystander import X as again")
    write("part/stage.py", source)
    assert "components.part.bystander.X" in reached(tmp_path).code


def test_imports_for_type_checkers_do_not_count(write: Write, tmp_path: Path) -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from components.part.bystander import X\n"
    write("part/stage.py", f"{source}def stage(x: 'X'): ...")
    assert list(reached(tmp_path).code) == ["components.part.stage.stage"]


ACTS = {
    "a call": "register(Y)\ndef register(y): ...",
    "a decorator of one's own": "def register(f): ...\n@register\ndef Y(): ...",
    "an item of a table": "import components.part.bystander\ncomponents.part.bystander.T['Y'] = Y",
    "an attribute elsewhere": "import torch\ntorch.answer = Y",
    "a loop": "for each in [Y]:\n    each()",
    "a constructor": "class C:\n    def __init__(self, y): ...\nZ = C(Y)",
    "a function's result": "def made(y): ...\nZ = made(Y)",
    "a block that runs unless it is the program": "if __name__ != '__main__':\n    print(Y)",
    "the other side of a main block": "if __name__ == '__main__':\n    pass\nelse:\n    print(Y)",
    "a metaclass": "class Z(metaclass=Y): ...",
    "a base class that acts": "class B:\n    def __init_subclass__(cls): ...\nclass Z(B):\n    y = Y",
    "torch.library": "import torch\n@torch.library.register_fake('a::b')\ndef fake():\n    return Y",
}


@pytest.mark.parametrize("source", ACTS.values(), ids=ACTS)
def test_what_a_module_does_on_import_counts_although_nothing_names_it(
    write: Write, tmp_path: Path, source: str
) -> None:
    write("part/helper.py", TREE["part/helper.py"] + f"Y = 1\n{source}")
    assert "components.part.helper.Y" in reached(tmp_path).code


SILENT = {
    "a constant": "Z = Y + 1",
    "a pattern": "import re\nZ = re.compile(str(Y))",
    "a record": "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Z:\n    y: int = Y",
    "a record of records": "class A:\n    pass\nclass Z:\n    a: A = A()\n    y = Y",
    "a main block": "if __name__ == '__main__':\n    print(Y)",
    "a cached function": "from functools import cache\n@cache\ndef z():\n    return Y",
}


@pytest.mark.parametrize("source", SILENT.values(), ids=SILENT)
def test_a_mere_definition_does_not_count_until_it_is_used(write: Write, tmp_path: Path, source: str) -> None:
    before = reached(tmp_path)
    write("part/helper.py", TREE["part/helper.py"] + f"Y = 1\n{source}")
    assert changed(before, reached(tmp_path)) == set()


def test_a_package_runs_before_its_modules(write: Write, tmp_path: Path) -> None:
    write("__init__.py", "import os\nos.environ['A'] = '1'")
    assert "components (statements run at import)" in reached(tmp_path).code


def test_a_data_file_counts_where_its_name_is_spelt(write: Write, tmp_path: Path) -> None:
    write("part/words.txt", "alpha")
    write("part/other.txt", "beta")
    write("part/deep.py", "from pathlib import Path\nTWO = Path(__file__).with_name('words.txt').read_text()")
    before = reached(tmp_path)
    write("part/other.txt", "gamma")
    assert changed(before, reached(tmp_path)) == set()
    write("part/words.txt", "gamma")
    assert changed(before, reached(tmp_path)) == {"components/part/words.txt"}


def test_the_layout_of_a_json_file_does_not_count(write: Write, tmp_path: Path) -> None:
    write("part/table.json", '{"a": 1}')
    write("part/deep.py", "TWO = 'table.json'")
    before = reached(tmp_path)
    write("part/table.json", '{ "a":  1 }\n')
    assert changed(before, reached(tmp_path)) == set()
    write("part/table.json", '{"a": 2}')
    assert changed(before, reached(tmp_path)) == {"components/part/table.json"}


def test_a_field_with_a_neutral_default_is_code_only_where_it_is_used(write: Write, tmp_path: Path) -> None:
    before = reached(tmp_path)
    kind = "class Kind(Base):\n    clip: Annotated[float, Neutral(0.0)] = 0.0\n"
    write("part/kinds.py", TREE["part/kinds.py"].replace("class Kind(Base):\n", kind))
    assert changed(before, reached(tmp_path)) == set()
    declaration = "components.part.kinds:Kind.clip"
    assert changed(before, reached(tmp_path, declaration)) == {f"kinds.Kind.clip{OPTION}"}


def test_a_field_whose_default_is_not_neutral_is_code(write: Write, tmp_path: Path) -> None:
    before = reached(tmp_path)
    kind = "class Kind(Base):\n    clip: Annotated[float, Neutral(0.0)] = 1.0\n"
    write("part/kinds.py", TREE["part/kinds.py"].replace("class Kind(Base):\n", kind))
    assert changed(before, reached(tmp_path)) == {"kinds.Kind"}


def test_packages_are_those_of_the_reached_definitions(write: Write, tmp_path: Path) -> None:
    source = "import torch.nn.functional as F\nimport scipy\nimport torchmetrics  # for its effects\nTWO = F.relu"
    write("part/deep.py", f"{source}\ndef unused():\n    return scipy.x")
    write("part/bystander.py", "import mlflow\nX = mlflow.y")
    assert reached(tmp_path).packages == {"torch", "torchmetrics"}


def test_the_real_stages_reach_what_they_share_and_nothing_of_each_other() -> None:
    names = reach("components.pretrain:stage").code.keys()
    assert {"components.model.transformer.Transformer", "components.data.shards.ShardSet"} <= names
    assert any(name.startswith("kernels.cross_entropy") for name in names)
    assert not any(name.startswith(("components.deployment", "components.evaluation")) for name in names)
    assert "components.core.identity.Identity" not in names  # how keys are computed is not what stages do


def test_every_data_file_of_the_project_is_named_by_some_code() -> None:
    """A file whose name is put together while running would be read without counting."""
    sources = [path.read_text() for package in FIRST_PARTY for path in (PROJECT_ROOT / package).rglob("*.py")]
    files = [path for package in FIRST_PARTY for path in (PROJECT_ROOT / package).rglob("*.*")]
    # The digests of task files, a person's own among them, enter the key as sources (see ``flows.evaluation``).
    no_data = {"tasks", "__pycache__"}
    data = [path for path in files if path.suffix not in (".py", ".so") and path.parent.name not in no_data]
    assert data
    assert [path.name for path in data if not any(f'"{path.name}"' in text for text in sources)] == []


VIEW = """
    class Artifact:
        pass
    """
USES_OF_VIEWS = {
    "a call": ("return view.used()", {"used"}),
    "a property": ("return view.used", {"used"}),
    "getattr with a name": ("return getattr(view, 'used')", {"used"}),
    "getattr without": ("return getattr(view, name)", {"used", "unused"}),
    "a helper": ("return helper.taken(view)", {"used"}),
    "nothing": ("return view", set()),
}


@pytest.mark.parametrize(("source", "methods"), USES_OF_VIEWS.values(), ids=USES_OF_VIEWS)
def test_of_a_view_the_methods_that_anything_names_count(
    write: Write, tmp_path: Path, source: str, methods: set[str]
) -> None:
    view = "class View(Artifact):\n    def used(self): ...\n    def unused(self): ...\n"
    write("core/__init__.py", "")
    write("core/artifact.py", VIEW)
    write("part/view.py", f"from components.core.artifact import Artifact\n{view}")
    write("part/helper.py", "def taken(view): return view.used()")
    imports = "from components.part import helper\nfrom components.part.view import View\n"
    write("part/stage.py", f"{imports}def stage(view: View, name):\n    {source}")
    reached_methods = {name.rpartition(".")[2] for name in reached(tmp_path).code if ".View." in name}
    assert reached_methods == methods


def test_methods_of_other_classes_count_with_their_class(write: Write, tmp_path: Path) -> None:
    assert not [name for name in reached(tmp_path).code if name.startswith("components.part.kinds.Kind.")]
