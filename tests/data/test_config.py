import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from components.data.config import DataConfig


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"vocab_size": 1000}, "multiple of 64"),
        ({"vocab_size": 256}, "greater than or equal to 320"),
        ({"sources": []}, "at least 1 item"),
        ({"validation_fraction": 0}, "greater than 0"),
        ({"validation_fraction": 0.4, "test_fraction": 0.2}, "more than half of the documents"),
        ({"on_error": "ignore"}, "'fail' or 'skip'"),
        ({"shard_tokens": 0}, "greater than 0"),
        ({"tokenizer_sample_mb": -1}, "greater than 0"),
        ({"text_field": "{question"}, "expected '}'.*write a field"),
        ({"text_field": "{}"}, "the name of a field and nothing else"),
        ({"text_field": "{a!r}"}, "the name of a field and nothing else"),
        ({"text_field": "{{a}}"}, "names no field"),
        ({"text_fields": "text"}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        DataConfig(**given)


def test_every_setting_has_a_sentence_of_help() -> None:
    properties = DataConfig.model_json_schema()["properties"]
    assert [name for name, schema in properties.items() if len(schema.get("description", "")) < 20] == []


def test_the_flow_process_learns_settings_and_fingerprints_without_heavy_libraries() -> None:
    script = (
        "import sys; from components.data.config import DataConfig; from components.data.sources import fingerprint;"
        "fingerprint(DataConfig(sources=['world', 'pydoc']));"
        "print(sorted({'torch', 'numpy', 'pyarrow', 'tokenizers', 'datasets'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"
