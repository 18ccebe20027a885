"""Published tasks on a served model: through lm-eval's own client, and through ours, as on the model itself."""

import gzip
import json
from pathlib import Path

import httpx
import pytest

from components.data.special_tokens import END_OF_TEXT
from components.evaluation.evaluate_config import EndpointConfig
from components.evaluation.harness import suite
from components.evaluation.harness.config import HarnessConfig
from components.evaluation.score_table import Score
from components.evaluation.text_models.base import TextModel
from components.evaluation.text_models.endpoint import EndpointModel
from components.evaluation.text_models.ours import LacewingModel
from components.model.bundle import Bundle

pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")

PAIRS = [
    ("The harbour begins.", "The harbour begin."),
    ("She was born.", "She were born."),
    ("港は古い。", "港い古は。"),
]


@pytest.fixture
def config(tmp_path: Path) -> HarnessConfig:
    (tmp_path / "blimp").mkdir()
    rows = [{"UID": "agreement", "sentence_good": good, "sentence_bad": bad} for good, bad in PAIRS]
    (tmp_path / "blimp/blimp.jsonl.gz").write_bytes(_compressed(rows))
    (tmp_path / "copa").mkdir()
    copa = {"query": "The history is long, because", "choices": ["she was born.", "it begins."], "gold": 0}
    (tmp_path / "copa/validation.jsonl").write_text(json.dumps(copa) + "\n")
    return HarnessConfig(data=str(tmp_path))


def _compressed(rows: list[dict[str, str]]) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def margins(model: TextModel, tasks: list[str], config: HarnessConfig) -> list[float]:
    found: list[Score] = [row for piece in suite.pieces(model, tasks, config).values() for row in piece()]
    return [row.score for row in found if row.metric == "margin"]


def test_our_client_finds_what_the_model_itself_says(
    client: httpx.Client, bundle: Bundle, config: HarnessConfig
) -> None:
    here = LacewingModel.of_bundle(bundle, "here", "cpu")
    served = EndpointModel("served", f"{client.base_url}/v1", config=EndpointConfig(start=END_OF_TEXT))
    expected = margins(here, ["blimp", "copa"], config)
    assert len(expected) == len(PAIRS) + 1
    assert margins(served, ["blimp", "copa"], config) == pytest.approx(expected, abs=1e-3)
    here.close()
    served.close()


def test_lm_evals_own_client_finds_it_too(client: httpx.Client, bundle: Bundle, config: HarnessConfig) -> None:
    """``lm_eval --model local-completions``: prompts of token ids, ``echo`` and ``logprobs``."""
    completions = pytest.importorskip("lm_eval.models.openai_completions")
    from lm_eval.evaluator import evaluate

    (task,) = suite.plan(["blimp"], config).tasks
    remote = completions.LocalCompletionsAPI(
        base_url=f"{client.base_url}/v1/completions",
        model="tiny",
        tokenizer=str(bundle.folder),
        tokenized_requests=True,
        num_concurrent=1,
        max_retries=1,
        batch_size=2,
    )
    samples = evaluate(remote, {"tasks": {task.name: task.task}, "groups": {}, "group_map": {}}, bootstrap_iters=0)
    assert samples is not None
    found = []
    for sample in sorted(samples["samples"][task.name], key=lambda sample: sample["doc_id"]):
        (good, _), (bad, _) = sample["filtered_resps"]
        found.append(good - bad)
    here = LacewingModel.of_bundle(bundle, "here", "cpu")
    assert found == pytest.approx(margins(here, ["blimp"], config), abs=1e-3)
    here.close()
