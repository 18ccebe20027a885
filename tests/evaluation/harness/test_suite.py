"""Published tasks over a folder of data: what is asked, what is refused, and what goes on without."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from components.core.errors import ArtifactError, InputError
from components.evaluation.harness import suite
from components.evaluation.harness.adapter import HarnessModel
from components.evaluation.harness.config import HarnessConfig
from components.evaluation.harness.fingerprint import sources
from components.evaluation.harness.loading import local_tasks
from components.evaluation.harness.task_files import own_task_files
from components.evaluation.score_table import Score, complete, rows
from components.evaluation.text_models.base import Continuation, Likelihood
from components.evaluation.text_models.ours import LacewingModel
from components.model.transformer import Transformer
from tests.evaluation.harness.conftest import DATA, write_rows

OWN_TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: mine.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{ask}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{right}}"
metadata: {format: letter}
"""


def measured(model: LacewingModel, tasks: Sequence[str], config: HarnessConfig) -> list[Score]:
    return [row for piece in suite.pieces(model, tasks, config).values() for row in piece()]


def metrics(found: Sequence[Score], task: str, format: str = "") -> set[str]:
    return {row.metric for row in found if row.task == task and row.format == format}


def test_every_task_of_the_platform_runs_on_data_in_its_layout(model: LacewingModel, config: HarnessConfig) -> None:
    planned = suite.plan(["all"], config)
    assert planned.left_out == {}
    assert {task.name.split("_")[0] for task in planned.tasks} >= {"arc", "mmlu", "blimp", "gsm8k", "entity", "nq"}
    found = measured(model, ["all"], config)
    assert all(np.isfinite(row.score) and row.weight > 0 and row.tokens > 0 for row in found)
    assert metrics(found, "arc_easy", "cloze") == {"acc", "acc_norm", "margin", "centred", "call_mass"}
    assert metrics(found, "mmlu_law", "letter") == {"acc", "margin", "centred", "call_mass"}
    assert metrics(found, "mmlu_law", "cloze") == {"acc", "acc_norm", "margin", "centred", "call_mass"}
    assert metrics(found, "truthfulqa", "several right") == {"acc", "right_mass", "margin", "centred", "call_mass"}
    assert metrics(found, "lambada_openai") == {"acc", "log_likelihood", "centred", "call_mass"}
    assert metrics(found, "entity_questions_P19") == metrics(found, "gsm8k") == {"exact_match", "centred"}
    calls = [row for row in found if row.metric == "call_mass"]
    assert all(0 < row.score < row.weight for row in calls)


def test_examples_are_those_of_the_data_and_hold_the_right_answer(config: HarnessConfig) -> None:
    assert suite.examples("blimp_islands", config)["blimp_islands"][1] == ("1", "The cats sleep.")
    assert suite.examples("winogrande", config) == {"winogrande": [("0", "Ada met Bram and Bram left.")]}
    assert suite.examples("mmlu_cloze", config)["mmlu_law"][2] == ("2", "Question: Who is 2?\nAnswer: in a town")
    assert suite.examples("triviaqa", config)["triviaqa"][0][1].startswith("Question: Who?\nAnswer: Ada")


def test_a_solved_example_is_never_the_one_that_is_asked(data: Path) -> None:
    with_shots = HarnessConfig(data=str(data), num_fewshot=2)
    (task,) = local_tasks(own_task_files()["arc_easy"], with_shots).values()
    prompts = [task.task.fewshot_context(task.rows[number], num_fewshot=2) for number in range(5)]
    for number, prompt in enumerate(prompts):
        assert prompt.count("Question:") == 3
        assert prompt.count(f"person {number} ") == 1
    one_shot = HarnessConfig(data=str(data), num_fewshot=1)
    mmlu = local_tasks(own_task_files()["mmlu_letter"], one_shot)["mmlu_letter_law"]
    prompt = mmlu.task.fewshot_context(mmlu.rows[0], num_fewshot=1)
    assert prompt.startswith("The following are multiple choice questions (with answers) about law.\n\nOf law?\nA. ")
    with pytest.raises(InputError, match=r"cannot show 9 solved examples.*harness\.num_fewshot"):
        suite.pieces(_unused(), ["arc_easy"], HarnessConfig(data=str(data), num_fewshot=9)).popitem()[1]()


def _unused() -> LacewingModel:
    return LacewingModel("unused", "", None)  # type: ignore[arg-type]


def test_scores_do_not_depend_on_the_size_of_pieces_and_a_limit_takes_some(
    model: LacewingModel, config: HarnessConfig
) -> None:
    def known(found: list[Score]) -> list[Score]:
        return sorted((replace(row, seconds=0.0) for row in found), key=str)

    tasks = ["blimp", "arc_easy"]
    whole = measured(model, tasks, config)
    small = config.model_copy(update={"piece_examples": 2})
    assert len(suite.pieces(model, tasks, small)) == 4 + 3
    assert known(measured(model, tasks, small)) == known(whole)
    some = measured(model, tasks, config.model_copy(update={"limit": 3}))
    assert set(map(str, known(some))) < set(map(str, known(whole)))
    assert len({(row.task, row.document) for row in some}) == 3 * 3


def test_pieces_are_made_once_and_again_where_the_data_has_changed(
    tmp_path: Path, model: LacewingModel, config: HarnessConfig
) -> None:
    first = rows(complete(tmp_path / "parts", suite.pieces(model, ["copa"], config)))
    assert rows(complete(tmp_path / "parts", suite.pieces(model, ["copa"], config))) == first
    write_rows(tmp_path / "data/copa/validation.jsonl", [{**DATA["copa/validation.jsonl"][0], "gold": 1}])
    other = suite.pieces(model, ["copa"], HarnessConfig(data=str(tmp_path / "data")))
    assert not set(other) & set(suite.pieces(model, ["copa"], config))
    assert sources(["copa"], config) != sources(["copa"], HarnessConfig(data=str(tmp_path / "data")))
    assert sources(["text", "piqa"], HarnessConfig())["test data of piqa"] == "missing"


def test_equally_likely_choices_share_the_point(model: LacewingModel, config: HarnessConfig) -> None:
    class Indifferent(LacewingModel):
        def likelihoods(self, requests: Sequence[Continuation]) -> list[Likelihood]:
            return [Likelihood(-1.0, False, 1) for _ in requests]

    found = measured(Indifferent("indifferent", "1", model.served), ["blimp", "arc_easy"], config)
    accuracy = {row.task: row.score for row in found if row.metric == "acc"}
    assert accuracy == {"blimp_agreement": 0.5, "blimp_islands": 0.5, "arc_easy": 0.25}
    assert {row.score for row in found if row.metric in ("centred", "margin")} == {0.0}


def test_a_task_without_data_is_left_out_and_the_others_go_on(
    model: LacewingModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path / "copa/validation.jsonl", DATA["copa/validation.jsonl"])
    found = measured(model, ["copa", "piqa"], HarnessConfig(data=str(tmp_path)))
    assert {row.task for row in found} == {"copa"}
    assert "the data of piqa is missing" in caplog.text
    assert "validation.jsonl.gz" in caplog.text
    with pytest.raises(InputError, match=r"the data of piqa is missing: .*correct harness\.data"):
        suite.plan(["piqa"], HarnessConfig(data=str(tmp_path)))
    with pytest.raises(InputError, match=r"set harness\.data to the folder that holds piqa/validation"):
        suite.plan(["piqa"], HarnessConfig())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hellaswagg", "there is no task 'hellaswagg'; did you mean hellaswag"),
        ("blimp_island", "there is no task 'blimp_island'; did you mean blimp_islands"),
        ("xyz", "tasks are all, arc, .*harness.include_defaults=true"),
    ],
)
def test_an_unknown_task_is_refused_with_the_nearest_names(name: str, words: str, config: HarnessConfig) -> None:
    with pytest.raises(InputError, match=words):
        suite.plan(["copa", name], config)


def test_a_task_file_of_a_person_is_taken_and_a_malformed_one_is_named(tmp_path: Path, model: LacewingModel) -> None:
    (tmp_path / "mine.yaml").write_text(OWN_TASK)
    write_rows(tmp_path / "mine.jsonl", [{"ask": "Is Ada here?", "right": 1}])
    config = HarnessConfig(data=str(tmp_path), tasks=str(tmp_path))
    assert {row.format for row in measured(model, ["mine"], config)} == {"letter"}
    for text, words in [
        ("task: [", "cannot be read as YAML"),
        ("- a list", "it holds list, not a mapping"),
        ("task: x", "it has no dataset_path"),
        (OWN_TASK.replace("test_split: test", ""), "names neither test_split nor validation_split"),
        (OWN_TASK.replace("{{ask}}", "{{ask"), "template .* is malformed"),
        (OWN_TASK.replace("{{ask}}", "{{asked}}"), "'asked' is undefined; the example has ask, right"),
        (OWN_TASK.replace("multiple_choice", "guessing"), "does not make a task"),
        (OWN_TASK + "\ninclude: nowhere.yaml", "nowhere.yaml"),
    ]:
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(InputError, match=rf"mine\.yaml(?s:.*){words}"):
            suite.plan(["mine"], config)
    with pytest.raises(InputError, match="holds no task file"):
        suite.plan(["copa"], HarnessConfig(tasks=str(tmp_path / "nowhere")))


def test_damaged_data_is_named_with_its_line(tmp_path: Path) -> None:
    config = HarnessConfig(data=str(tmp_path))
    path = tmp_path / "copa/validation.jsonl"
    write_rows(path, DATA["copa/validation.jsonl"])
    path.write_bytes(path.read_bytes() + b'{"query": \n')
    with pytest.raises(ArtifactError, match=r"validation\.jsonl, line 2 is not JSON"):
        suite.plan(["copa"], config)
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa/validation.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(ArtifactError, match="cannot be read"):
        suite.plan(["piqa"], config)


def test_a_line_separator_within_a_string_ends_no_line(tmp_path: Path) -> None:
    row = {**DATA["copa/validation.jsonl"][0], "query": "one\u2028two"}
    write_rows(tmp_path / "copa/validation.jsonl", [row])
    assert suite.examples("copa", HarnessConfig(data=str(tmp_path)))["copa"][0][1].startswith("one\u2028two")


def test_a_prompt_longer_than_the_context_keeps_its_end(tmp_path: Path, model: LacewingModel) -> None:
    row = {"query": "Ada met Bram. " * 60 + "Ada left, because", "choices": ["Bram slept.", "Ada sang."], "gold": 0}
    write_rows(tmp_path / "copa/validation.jsonl", [row, {**row, "query": "Nobody met Ada. " + row["query"]}])
    found = measured(model, ["copa"], HarnessConfig(data=str(tmp_path)))
    first, second = (row.score for row in found if row.metric == "margin")
    assert first == second


def test_a_model_that_gives_no_number_is_refused_with_the_task(model: LacewingModel, config: HarnessConfig) -> None:
    class Broken(LacewingModel):
        def likelihoods(self, requests: Sequence[Continuation]) -> list[Likelihood]:
            return [Likelihood(float("nan"), False, 1) for _ in requests]

    with pytest.raises(ArtifactError, match=r"broken gives a log-likelihood of nan in copa, example 0"):
        measured(Broken("broken", "1", model.served), ["copa"], config)
    network = Transformer(model.served.model.config, model.served.model.vocab_size).eval()
    with torch.no_grad():
        network.norm.weight[0] = float("nan")
    with pytest.raises(ArtifactError, match="the model diverged gives a likelihood that is not finite"):
        measured(LacewingModel("diverged", "1", replace(model.served, model=network)), ["copa"], config)


def test_sampled_text_is_refused(tmp_path: Path, model: LacewingModel) -> None:
    text = OWN_TASK.replace("multiple_choice", "generate_until").replace('doc_to_choice: ["yes", "no"]\n', "")
    (tmp_path / "mine.yaml").write_text(text + "\ngeneration_kwargs: {do_sample: true, until: ['.']}\n")
    write_rows(tmp_path / "mine.jsonl", [{"ask": "Is Ada here?", "right": 1}])
    with pytest.raises(InputError, match="mine asks for sampled text"):
        measured(model, ["mine"], HarnessConfig(data=str(tmp_path), tasks=str(tmp_path)))


def test_lm_eval_itself_drives_the_model_to_the_same_scores_and_leaves_no_file(
    tmp_path: Path, model: LacewingModel, config: HarnessConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.evaluator import evaluate

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    planned = suite.plan(["arc", "mmlu_letter", "lambada", "world_knowledge", "winogrande"], config)
    tasks = {task.name: task for task in planned.tasks}
    theirs = evaluate(
        HarnessModel(model),
        {"tasks": {name: task.task for name, task in tasks.items()}, "groups": {}, "group_map": {}},
        bootstrap_iters=0,
    )
    assert theirs is not None
    ours = measured(model, ["arc", "mmlu_letter", "lambada", "world_knowledge", "winogrande"], config)
    for name, result in theirs["results"].items():
        for metric in ("acc", "acc_norm", "exact_match"):
            found = [value for key, value in result.items() if key.split(",")[0] == metric]
            scores = [
                row.score
                for row in ours
                if (row.task, row.format, row.metric) == (tasks[name].scores_as, tasks[name].format, metric)
            ]
            assert found == ([pytest.approx(np.mean(scores))] if scores else [])
    assert not list(tmp_path.rglob("*"))


def test_without_the_extra_the_error_says_how_to_install_it(data: Path) -> None:
    code = f"""
import sys
sys.modules["lm_eval"] = None
from components.core.errors import InputError
from components.evaluation.harness import suite
from components.evaluation.harness.config import HarnessConfig
assert "hellaswag" in suite.names()
try:
    suite.plan(["copa"], HarnessConfig(data={str(data)!r}))
except InputError as error:
    print(error)
"""
    done = _python(code)
    assert "pip install 'lacewing[harness]'" in done


def test_names_and_settings_cost_no_import_of_lm_eval() -> None:
    code = """
import sys
import components.evaluation.harness.config
assert not {"torch", "numpy", "lm_eval", "jinja2"} & set(sys.modules)
from components.evaluation.harness.task_files import names
names()
assert not {"torch", "numpy", "lm_eval"} & set(sys.modules), "heavy"
from components.evaluation.harness import suite
print(json.dumps(sorted({"lm_eval", "datasets", "evaluate"} & set(sys.modules))))
""".replace("import sys", "import json, sys", 1)
    assert json.loads(_python(code)) == []


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ), timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
