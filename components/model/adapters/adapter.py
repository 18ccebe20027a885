"""An adapter on our decoder, by PEFT: put on, trained in place, merged.

PEFT replaces the targeted linear layers and freezes all else. Its functions that ask a model for its ``config`` take it
for a dict or a configuration of transformers, which ours is not: merging and the rows of the embedding are done here.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from components.core.errors import InputError
from components.data.special_tokens import SpecialTokens
from components.model.adapters.config import AdapterConfig
from components.model.adapters.loftq import loftq
from components.model.adapters.rows import TrainedRows, plain_rows, train_rows
from components.model.checkpoint import hugging_face_name
from components.model.transformer import Transformer

NAME = "default"
"""Of the only adapter of a model, within PEFT."""


@dataclass(frozen=True)
class Adapter:
    """What is trained on a frozen model."""

    config: AdapterConfig
    model: Transformer
    """The model, which computes with the adapter until that is merged."""
    base: str
    """Digest of the weights that the adapter belongs to."""
    rows: Mapping[str, TrainedRows]
    """The trained rows of the embedding, and of the output head if that is another matrix; none if all are frozen."""
    start: Mapping[str, Tensor] = field(default_factory=dict)
    """PiSSA's thin matrices before training; their product was taken out of the frozen weights."""

    def weights(self) -> dict[str, Tensor]:
        """The thin matrices and vectors by PEFT's names for them; they share memory with the model."""
        weights: dict[str, Tensor] = peft().get_peft_model_state_dict(
            self.model, adapter_name=NAME, save_embedding_layers=False
        )
        return weights

    def merge(self) -> None:
        """Make the adapter part of the model's own weights, which are plain ones again."""
        for _, layer in _adapted_layers(self.model):
            layer.merge()
        self._take_off(keep=True)

    def remove(self) -> None:
        """Take the adapter off: the model has its frozen weights only, as plain ones."""
        self._take_off(keep=False)

    def _take_off(self, keep: bool) -> None:
        for name, layer in list(_adapted_layers(self.model)):
            self.model.set_submodule(name, layer.get_base_layer())
        del self.model.peft_config
        if self.rows:
            plain_rows(self.model, keep)
        self.model.requires_grad_(True)


def adapted(model: Transformer, config: AdapterConfig, special: SpecialTokens) -> Adapter | None:
    """Make ``model`` ready to train as ``config`` says, in place; ``None`` if all its weights are to be trained.

    New weights are drawn from torch's global generator.

    Raises ``InputError`` for a rank that the matrices do not have, and if PEFT is not installed.
    """
    if config.kind == "none":
        return None
    _check_rank(model, config)
    return attached(model, config, sorted(special.ids.values()))


def attached(model: Transformer, config: AdapterConfig, row_ids: Sequence[int]) -> Adapter:
    """``adapted`` for a kind that is not none; ``row_ids`` are trained if the configuration asks for rows."""
    base = weights_digest(model.state_dict())
    peft().inject_adapter_in_model(_training_config(config), model, adapter_name=NAME)
    if config.kind == "loftq":
        _quantise(model, config)
        base = weights_digest(frozen_weights(model))
    rows = train_rows(model, row_ids) if config.special_rows else {}
    model.train()  # a loaded model is not in training mode, and Lightning leaves it so: there would be no dropout
    adapter = Adapter(config, model, base, rows)
    start = {name: weight.clone() for name, weight in adapter.weights().items()} if config.kind == "pissa" else {}
    return Adapter(config, model, base, rows, start)


def library_config(config: AdapterConfig) -> Any:
    """``peft.LoraConfig`` or ``peft.IA3Config``, with our names of the matrices."""
    targets = list(config.matrices)
    if config.kind == "ia3":
        # Of a feed-forward layer (IA)^3 scales the hidden activations, which are the inputs of ``down``.
        return peft().IA3Config(
            target_modules=targets, feedforward_modules=[each for each in targets if each == "down"]
        )
    return peft().LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        use_rslora=config.kind == "rslora",
        use_dora=config.kind == "dora",
        init_lora_weights="pissa" if config.kind == "pissa" else True,
    )


def _training_config(config: AdapterConfig) -> Any:
    """``library_config`` with the layer that computes fastest; only the model that it is put on knows of it."""
    settings = library_config(config)
    if config.kind not in ("dora", "ia3") and not config.dropout:
        from components.model.adapters.products import SummedLinear  # PEFT is an extra

        settings._register_custom_module({nn.Linear: SummedLinear})
    return settings


def frozen_weights(model: Transformer) -> dict[str, Tensor]:
    """The weights below an adapter, by the names that they have without one."""
    return {_plain_name(name): weight for name, weight in model.named_parameters() if not weight.requires_grad}


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Names, shapes and values of weights, in fp32."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{hugging_face_name(name)} {list(weight.shape)}\n".encode())
        digest.update(weight.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


def peft() -> ModuleType:
    """The library; raises ``InputError`` that names the extra if it is not installed."""
    try:
        import peft as library
    except ImportError as error:
        raise InputError(
            "adapters need the PEFT library: install the extra with `pip install 'lacewing[peft]'`, or train all "
            "weights with finetune.adapter.kind=none"
        ) from error
    return library  # type: ignore[no-any-return]


def _check_rank(model: Transformer, config: AdapterConfig) -> None:
    if config.kind == "ia3":
        return
    for name in config.matrices:
        weight = next(each for full, each in model.named_parameters() if full.endswith(f".{name}.weight"))
        if config.rank > min(weight.shape):
            raise InputError(
                f"adapter.rank={config.rank} is more than the matrix {name} has, which is {weight.shape[0]} x "
                f"{weight.shape[1]}: take at most {min(weight.shape)}, or train all weights with adapter.kind=none"
            )


def _quantise(model: Transformer, config: AdapterConfig) -> None:
    """LoftQ's start for every adapted layer; the scale of the product is divided out of its factors."""
    for _, layer in _adapted_layers(model):
        start = loftq(layer.get_base_layer().weight.detach(), config.rank, config.loftq_iterations)
        root = layer.scaling[NAME] ** 0.5
        with torch.no_grad():
            layer.get_base_layer().weight.copy_(start.quantised)
            layer.lora_B[NAME].weight.copy_(start.left / root)
            layer.lora_A[NAME].weight.copy_(start.right / root)


def _adapted_layers(model: Transformer) -> Iterator[tuple[str, Any]]:
    return ((name, part) for name, part in model.named_modules() if hasattr(part, "get_base_layer"))


def _plain_name(name: str) -> str:
    return name.replace(".base_layer.", ".").replace(".parametrizations.weight.original", ".weight")
