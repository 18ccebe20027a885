import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.config import TrainerConfig

CONF = Path(__file__).resolve().parents[2] / "conf"
PRESETS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


def test_the_presets_of_the_issue_exist() -> None:
    assert set(PRESETS) == {"quick", "10m", "30m", "124m", "334m", "1b"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_builds_with_the_number_of_parameters_it_states(preset: str) -> None:
    text = (CONF / "model" / f"{preset}.yaml").read_text()
    stated = re.match(r"# ([\d,]+) parameters with a vocabulary of ([\d,]+)", text)
    assert stated, f"{preset}.yaml does not begin with its number of parameters"
    parameters, vocab_size = (int(number.replace(",", "")) for number in stated.groups())
    config = ModelConfig.model_validate(yaml.safe_load(text))
    with torch.device("meta"):
        model = Transformer(config, vocab_size)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert config.parameters(vocab_size) == parameters
    assert config.name == preset
    size = {"k": 1e3, "m": 1e6, "b": 1e9}.get(preset[-1])
    if preset != "quick" and size:
        assert parameters == pytest.approx(float(preset[:-1]) * size, rel=0.05)


@pytest.mark.parametrize("preset", sorted(path.stem for path in (CONF / "trainer").glob("*.yaml")))
def test_every_model_preset_has_a_valid_trainer(preset: str) -> None:
    values = yaml.safe_load((CONF / "trainer" / f"{preset}.yaml").read_text())
    TrainerConfig.model_validate(values.get("trainer", values))
    assert preset in PRESETS


def test_quick_is_the_default_and_has_half_to_two_million_parameters() -> None:
    quick = ModelConfig.model_validate(yaml.safe_load((CONF / "model" / "quick.yaml").read_text()))
    assert quick == ModelConfig()
    assert 0.5e6 <= quick.parameters(2048) <= 2e6


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"width": 100, "heads": 3}, "not a multiple of heads"),
        ({"width": 9, "heads": 3, "kv_heads": 3}, "odd"),
        ({"width": 96, "heads": 6, "kv_heads": 4}, "not a multiple of kv_heads"),
        ({"layers": 0}, "greater than 0"),
        ({"layer": 3}, "Extra inputs"),
        ({"width": "wide"}, "valid integer"),
    ],
)
def test_impossible_shapes_are_refused_in_words(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelConfig.model_validate(values)


def _flops_of_linear(rows: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
    return 2 * math.prod(rows) * weight[0]


def test_counted_flops_are_those_of_the_matrix_products(config: ModelConfig) -> None:
    vocab_size, seq = 131, 32
    model = Transformer(config, vocab_size)
    by_onednn = {torch.ops.mkldnn._linear_pointwise: _flops_of_linear}
    with FlopCounterMode(display=False, custom_mapping=by_onednn) as counter:
        hidden = model(torch.randint(0, vocab_size, (1, seq)))
        model.logits(hidden).sum().backward()
    counted = config.training_flops_per_token(vocab_size, seq) * seq
    # The counter does not know the CPU's attention kernel: forward 4 T^2, backward 8 T^2, half of it masked.
    attention = 6 * config.layers * config.width * seq * seq
    assert counted == pytest.approx(counter.get_total_flops() + attention, rel=0.001)
