"""Promises about the shape of the code: no import circles, and functions that fit a screen."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import grimp
import pytest

from tests.conftest import ROOT

PACKAGES = ("flows", "conf", "components", "kernels")
LONGEST_FUNCTION_LINES = 60
# Triton kernels are exempt: the compiler inlines, but a kernel split into parts hides its order of loads.
KERNELS = "kernels"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions and for type checking count too: a circle that is hidden is still a circle."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other: {' -> '.join(error.args[1])}")


def test_functions_are_short() -> None:
    lengths = [(lines, name) for package in PACKAGES for lines, name in functions(ROOT / package)]
    too_long = [f"{name}: {lines} lines" for lines, name in lengths if lines >= LONGEST_FUNCTION_LINES]
    assert [name for name in too_long if not name.startswith(KERNELS)] == []
    counts = sorted(lines for lines, _ in lengths)
    assert median(counts) <= 7
    assert counts[int(0.9 * len(counts))] <= 21


def functions(folder: Path) -> Iterator[tuple[int, str]]:
    """Length in lines, decorators left out, and place of every function below ``folder``."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                yield node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.name}"
