"""Adapters know nothing of the flows that use them, and nobody goes in circles."""

from graphlib import TopologicalSorter

import grimp
import pytest

# What an adapter may use of this package beside other adapters.
LEAVES = {
    "flows",
    "flows.addresses",
    "flows.console",
    "flows.endings",
    "flows.headlines",
    "flows.owner",
    "flows.ports",
    "flows.room",
    "flows.sqlite_address",
    "flows.workspace",
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("flows", include_external_packages=False, exclude_type_checking_imports=False)


def test_adapters_import_leaves_and_each_other_only(graph: grimp.ImportGraph) -> None:
    adapters = {"flows.adapters", *graph.find_descendants("flows.adapters")}
    used = {name for adapter in adapters for name in graph.find_modules_directly_imported_by(adapter)}
    assert used - adapters <= LEAVES


def test_what_a_run_is_depends_on_no_other_module_of_the_flows(graph: grimp.ImportGraph) -> None:
    assert graph.find_modules_directly_imported_by("flows.run") == set()


def test_there_is_no_circle(graph: grimp.ImportGraph) -> None:
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    order = list(TopologicalSorter(imports).static_order())  # raises CycleError, which shows the circle
    assert set(order) == graph.modules
