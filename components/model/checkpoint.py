"""Model folders in Hugging Face's Llama layout: ``model.safetensors``, ``config.json``, ``generation_config.json``.

transformers, llama.cpp and vLLM can read them. Keys with another name in transformers 4 (``rope_theta``,
``torch_dtype``) are written beside the new ones.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise_tensors
from torch import nn
from torch.overrides import TorchFunctionMode

from components.core.atomic import write_bytes, write_json
from components.core.errors import ArtifactError
from components.data.special_tokens import SpecialTokens
from components.model.config import ModelConfig
from components.model.transformer import Transformer

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"

# Our parameter names, by the names Hugging Face gives them.
_BLOCK_NAMES = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output",
    "post_attention_layernorm": "feed_forward_norm",
    "mlp.gate_proj": "feed_forward.gate",
    "mlp.up_proj": "feed_forward.up",
    "mlp.down_proj": "feed_forward.down",
}
_HF_BLOCK_NAMES = {ours: theirs for theirs, ours in _BLOCK_NAMES.items()}
_HF_OUTER_NAMES = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}


def save_model(model: Transformer, folder: Path, special: SpecialTokens) -> None:
    """Write the weights (fp32) and both configs into ``folder``, each file atomically; the weights come last.

    ``special``: of the model's tokenizer, for runtimes that read only the configs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, hugging_face_config(model.config, model.vocab_size, special))
    write_json(folder / GENERATION_CONFIG, generation_config(special))
    tensors = {
        hugging_face_name(name): parameter.detach().to("cpu", torch.float32).contiguous()
        for name, parameter in model.named_parameters()
    }
    write_bytes(folder / WEIGHTS, serialise_tensors(tensors, metadata={"format": "pt"}))


def load_model(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """Read a model folder; ``dtype`` ``None`` keeps fp32.

    Raises ``ArtifactError`` if a file is missing, truncated or altered, or holds something other than our Llama.
    """
    config, vocab_size = read_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ArtifactError(f"{folder} has no {WEIGHTS}: not a model folder, or an unfinished one")
    try:
        tensors = parse_tensors(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{path} cannot be read as safetensors ({error}): it is truncated or altered; make or pull it again"
        ) from error
    model = _uninitialised(config, vocab_size, path)
    expected = {hugging_face_name(name): parameter.shape for name, parameter in model.named_parameters()}
    if fault := _first_difference(expected, tensors):
        raise ArtifactError(f"{path} does not hold the model that {CONFIG} describes: {fault}")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[hugging_face_name(name)])
    return model.to(device=device, dtype=dtype).eval()


def read_config(folder: Path) -> tuple[ModelConfig, int]:
    """The shape and the vocabulary size written in a model folder's ``config.json``."""
    path = folder / CONFIG
    if not path.is_file():
        raise ArtifactError(f"{folder} has no {CONFIG}: not a model folder, or an unfinished one")
    try:
        values = json.loads(path.read_bytes())
        _check_family(values)
        config = ModelConfig(
            name=values.get("preset", path.parent.name),
            layers=values["num_hidden_layers"],
            width=values["hidden_size"],
            hidden_width=values["intermediate_size"],
            heads=values["num_attention_heads"],
            kv_heads=values["num_key_value_heads"],
            context_length=values["max_position_embeddings"],
            rope_theta=values["rope_theta"],
            norm_epsilon=values["rms_norm_eps"],
        )
        return config, int(values["vocab_size"])
    except (ValueError, TypeError, KeyError, AttributeError, ValidationError) as error:
        raise ArtifactError(f"{path} is not the config of one of our models: {error}") from error


def hugging_face_config(config: ModelConfig, vocab_size: int, special: SpecialTokens) -> dict[str, Any]:
    """``config.json`` for transformers 4.57 and 5."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "preset": config.name,
        "vocab_size": vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.hidden_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": special.end_of_text,
        "pad_token_id": special.padding,
        "use_cache": True,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def generation_config(special: SpecialTokens) -> dict[str, Any]:
    """``generation_config.json``: where to stop, and that ``<CALL>`` is suppressed without a helper."""
    return {
        "bos_token_id": None,
        "eos_token_id": [special.im_end, special.end_of_text],
        "pad_token_id": special.padding,
        "suppress_tokens": [special.call],
    }


def hugging_face_name(name: str) -> str:
    """Name of a parameter in Hugging Face's Llama, for one of ours: ``blocks.3.attention.query.weight``."""
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", name):
        return f"model.layers.{match[1]}.{_HF_BLOCK_NAMES[match[2]]}.weight"
    return _HF_OUTER_NAMES[name]


def _uninitialised(config: ModelConfig, vocab_size: int, path: Path) -> Transformer:
    """The model with whatever is in memory as its weights, which are read from ``path`` next."""
    try:
        with _NoInitialisation():
            return Transformer(config, vocab_size)
    except RuntimeError as error:  # torch has no type of its own for "can't allocate memory"
        raise ArtifactError(f"{path}: {CONFIG} describes a model that does not fit into memory ({error})") from error


class _NoInitialisation(TorchFunctionMode):
    """Nothing is drawn for new weights: it would take longer than to read them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:  # methods of tensors have no module
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _check_family(values: dict[str, Any]) -> None:
    required = {"model_type": "llama", "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False}
    for key, value in required.items():
        if values.get(key) != value:
            raise ValueError(f"{key} is {values.get(key)!r}, but only {value!r} is supported")
    if values["head_dim"] * values["num_attention_heads"] != values["hidden_size"]:
        raise ValueError("head_dim * num_attention_heads differs from hidden_size, which is not supported")


def _first_difference(expected: dict[str, torch.Size], tensors: dict[str, torch.Tensor]) -> str | None:
    if missing := sorted(expected.keys() - tensors.keys()):
        return f"{len(missing)} tensors are missing, among them {missing[0]}"
    if unknown := sorted(tensors.keys() - expected.keys()):
        return f"{len(unknown)} tensors are unknown, among them {unknown[0]}"
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            return f"{name} has shape {list(tensors[name].shape)}, expected {list(shape)}"
    return None
