"""The stages whose keys and reruns are tested are those that flows run."""

import ast
from pathlib import Path

import flows
from tests.core.stages import STAGES


def test_every_stage_of_a_flow_is_in_the_table_of_stages() -> None:
    found = {}
    for path in Path(flows.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Stage":
                name, function = (ast.literal_eval(argument) for argument in node.args[:2])
                found[name] = function
    assert found == {name: function for name, (function, _) in STAGES.items()}
