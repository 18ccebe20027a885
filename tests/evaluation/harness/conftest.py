"""A folder of task data in the layout that the platform's task files expect, and a small model with random weights."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from components.cascade.calibration import NEVER_CALLS
from components.cascade.config import CascadeConfig
from components.data.tokenizer import TextTokenizer
from components.evaluation.gate.served import ServedModel
from components.evaluation.harness.config import HarnessConfig
from components.evaluation.text_models.ours import LacewingModel
from components.model.config import ModelConfig
from components.model.transformer import Transformer

pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")

SHAPE = ModelConfig(name="test", layers=1, width=32, hidden_width=64, heads=2, kv_heads=1, context_length=96)
CHOICES = ["in Orlen", "a weaver", "in a town", "Ada"]


def _choice(number: int) -> dict[str, Any]:
    return {"query": f"Question: Where was person {number} born?", "choices": CHOICES, "gold": number % 4}


def _mmlu(subject: str, number: int) -> dict[str, Any]:
    return {"subject": subject, "question": f"Who is {number}?", "choices": CHOICES, "answer": number % 4}


DATA: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "arc_easy/test.jsonl.gz": [_choice(number) for number in range(5)],
    "arc_challenge/test.jsonl": [_choice(number) for number in range(3)],
    "piqa/validation.jsonl.gz": [_choice(1) | {"choices": CHOICES[:2], "query": "Question: How?\n"}],
    "boolq/validation.jsonl.gz": [{"query": "Passage: Ada.\nQuestion: is it?", "choices": ["no", "yes"], "gold": 1}],
    "openbookqa/test.jsonl": [_choice(2)],
    "copa/validation.jsonl": [{"query": "Ada left, because", "choices": CHOICES[:2], "gold": 0}],
    "hellaswag/validation_1000.jsonl.gz": [{"ind": 1, "ctx": "Ada was", "endings": CHOICES, "label": 3}],
    "winogrande/validation.jsonl": [
        {"context_options": ["Ada met Bram and Ada", "Ada met Bram and Bram"], "continuation": "left.", "gold": 1}
    ],
    "mmlu/test.jsonl.gz": [_mmlu(subject, number) for subject in ("anatomy", "law") for number in range(3)],
    "mmlu/dev.jsonl": [_mmlu(subject, 9) | {"question": f"Of {subject}?"} for subject in ("anatomy", "law")],
    "truthfulqa/TruthfulQA.jsonl.gz": [
        {
            "question": "Where is Orlen?",
            "answer": "By the sea",
            "Correct Answers": "By the sea; On a coast",
            "Incorrect Answers": "On the moon; Nowhere; ",
        }
    ],
    "lambada_openai/test.jsonl.gz": [{"context": "Ada was born in", "continuation": "Orlen"}],
    "blimp/blimp.jsonl.gz": [
        {"UID": uid, "sentence_good": f"The {word}s sleep.", "sentence_bad": f"The {word}s sleeps.", "pair_id": number}
        for uid in ("agreement", "islands")
        for number, word in enumerate(("dog", "cat", "bird", "horse"))
    ],
    "triviaqa/sm_sub.jsonl.gz": [{"context": "Question: Who?\nAnswer:", "answer": "Ada", "aliases": ["Ada", "A. B."]}],
    "nq_open/validation.jsonl": [{"question": "who was born in orlen", "answer": ["Ada"]}],
    "entity_questions/test.jsonl.gz": [
        {"relation": relation, "question": "Where was Ada born?", "answers": ["Orlen"]} for relation in ("P19", "P20")
    ],
    "gsm8k/test.jsonl.gz": [{"question": "What is 1,000 + 8?", "answer": "1,000 + 8 = 1,008.\n#### 1,008"}],
}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON Lines, compressed where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, rows in DATA.items():
        write_rows(folder / name, rows)
    return folder


@pytest.fixture
def config(data: Path) -> HarnessConfig:
    return HarnessConfig(data=str(data))


@pytest.fixture(scope="session")
def model(tokenizer: TextTokenizer) -> LacewingModel:
    torch.manual_seed(0)
    network = Transformer(SHAPE, tokenizer.vocab_size).eval()
    return LacewingModel("small", "1", ServedModel(network, tokenizer, None, NEVER_CALLS, CascadeConfig(budget=0.0)))
