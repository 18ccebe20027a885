import pytest
import torch

from components.model.config import ModelConfig
from components.model.transformer import Transformer

VOCABULARY = 131


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig(
        name="tiny", layers=2, width=48, hidden_width=80, heads=6, kv_heads=2, context_length=64, rope_theta=500.0
    )


@pytest.fixture
def model(config: ModelConfig) -> Transformer:
    """A model whose weights are far from their start: with norms of one and tiny weights many mistakes cancel."""
    torch.manual_seed(0)
    model = Transformer(config, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.2)
    return model
