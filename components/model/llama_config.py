"""``config.json`` of a Llama decoder, as Hugging Face writes it, to ``ModelConfig`` and back. Light: no torch.

Whatever would make another function of the weights than our ``Transformer`` computes is refused by name, never passed
over. Names and defaults are those of transformers 5 (``configuration_llama.py``, ``configuration_mistral.py``,
``modeling_rope_utils.py``); those of transformers 4 are read as well, and written beside the new ones.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.core.errors import ArtifactError
from components.data.special_tokens import SpecialTokens
from components.model.config import ModelConfig, RopeScaling

CONFIG = "config.json"

# What transformers takes for a key that a family's config.json leaves out.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096},
}
FAMILIES = tuple(_DEFAULTS)
"""``model_type`` of the folders that are Llama decoders: same tensors, same function."""

# What our decoder does, by the key that could say otherwise; a missing key and null mean the same.
_ONLY: Mapping[str, tuple[Any, str]] = {
    "attention_bias": (False, "query, key, value and output have no biases here"),
    "qkv_bias": (False, "query, key and value have no biases here"),
    "mlp_bias": (False, "the feed-forward has no biases here"),
    "hidden_act": ("silu", "the feed-forward is SwiGLU here, silu(gate) * up"),
    "partial_rotary_factor": (1, "all of a head is turned by its position here"),
    "use_qk_norm": (False, "queries and keys are not normalised here"),
    "qk_norm": (False, "queries and keys are not normalised here"),
    "qk_layernorm": (False, "queries and keys are not normalised here"),
    "logits_scaling": (1, "logits are not scaled here"),
    "logit_scale": (1, "logits are not scaled here"),
    "embedding_multiplier": (1, "embeddings are not scaled here"),
    "residual_multiplier": (1, "what a block adds is not scaled here"),
    "attention_multiplier": (None, "attention is scaled by the root of the head size here"),
    "query_pre_attn_scalar": (None, "attention is scaled by the root of the head size here"),
    "final_logit_softcapping": (None, "logits have no soft cap here"),
    "attn_logit_softcapping": (None, "attention has no soft cap here"),
    "quantization_config": (None, "the weights are quantised: give the folder of the unquantised model"),
}


def read_config(folder: Path, context_length: int | None = None) -> tuple[ModelConfig, int]:
    """The shape and the number of embedding rows that a model folder's ``config.json`` says.

    ``context_length``: read no more tokens than this, although the model could.

    Raises ``ArtifactError`` if it is missing or damaged, or if our decoder would compute something else.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ArtifactError(f"{folder} has no {CONFIG}: not a model folder, or an unfinished one")
    try:
        values = json.loads(path.read_bytes())
        name = values.get("preset", path.parent.name)
        return shape(values, name, context_length), int(values["vocab_size"])
    except KeyError as error:
        raise ArtifactError(f"{path} does not say {error.args[0]}: it is not the config of a Llama decoder") from error
    except (ValueError, TypeError, AttributeError, ValidationError) as error:
        raise ArtifactError(f"{path} is not the config of a Llama decoder that can be read here: {error}") from error


def shape(config: Mapping[str, Any], name: str, context_length: int | None = None) -> ModelConfig:
    """The shape that the values of a ``config.json`` describe, called ``name``, with this context or all of its own.

    Raises ``ValueError`` that names the key by which another function is meant, ``KeyError`` for a key that is missing.
    """
    family = str(config.get("model_type"))
    if family not in _DEFAULTS:
        raise ValueError(f"model_type is {family!r}, but only {' and '.join(FAMILIES)} are read")
    values = {**_DEFAULTS[family], **config}
    context = _context(values["max_position_embeddings"], context_length)
    _check_function(values)
    _check_window(values, context)
    heads, width = values["num_attention_heads"], values["hidden_size"]
    head_size = values.get("head_dim") or width // heads
    rope = _rope(values)
    return ModelConfig(
        name=name,
        layers=values["num_hidden_layers"],
        width=width,
        hidden_width=values["intermediate_size"],
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        context_length=context,
        rope_theta=rope["rope_theta"],
        norm_epsilon=values.get("rms_norm_eps", 1e-6),
        head_size=0 if head_size * heads == width else head_size,
        tied=values.get("tie_word_embeddings", False),
        rope_scaling=_scaling(rope),
    )


def hugging_face_config(config: ModelConfig, vocab_size: int, special: SpecialTokens) -> dict[str, Any]:
    """``config.json`` for transformers 4.57 and 5."""
    scaling = _hugging_face_scaling(config.rope_scaling)
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
        "rope_parameters": {"rope_type": "default", **scaling, "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,
        **({"rope_scaling": scaling} if scaling else {}),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": config.tied,
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


def _check_function(values: Mapping[str, Any]) -> None:
    for key, (only, reason) in _ONLY.items():
        if (value := values.get(key)) is not None and value != only:
            raise ValueError(f"{key} is {_shown(value)}, but {reason}")
    if others := sorted({str(kind) for kind in values.get("layer_types") or ()} - {"full_attention"}):
        raise ValueError(f"layer_types has {', '.join(others)}, but every token sees all before it here")


def _context(longest: int, wanted: int | None) -> int:
    if wanted is not None and wanted > longest:
        raise ValueError(f"context_length is {wanted}, but the model reads {longest} tokens (max_position_embeddings)")
    return wanted or longest


def _check_window(values: Mapping[str, Any], context: int) -> None:
    if (window := values.get("sliding_window")) is not None and window < context:
        raise ValueError(
            f"sliding_window is {window}, shorter than the context of {context}, but every token sees all before it "
            f"here: a context_length of {window} or less is computed exactly"
        )


def _rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of rotary positions, in one place; as in transformers, ``rope_scaling`` has precedence."""
    rope = dict(values.get("rope_scaling") or values.get("rope_parameters") or {})
    rope.setdefault("rope_theta", values.get("rope_theta", 10_000.0))
    if any(isinstance(value, dict) for value in rope.values()):
        raise ValueError("rope_parameters differ by the kind of layer, but all layers are alike here")
    if (part := rope.get("partial_rotary_factor")) not in (None, 1):
        raise ValueError(f"partial_rotary_factor is {part}, but {_ONLY['partial_rotary_factor'][1]}")
    rope.setdefault("original_max_position_embeddings", values["max_position_embeddings"])
    return rope


def _scaling(rope: Mapping[str, Any]) -> RopeScaling:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return RopeScaling()
    if kind == "linear":
        return RopeScaling(kind="linear", factor=rope["factor"])
    if kind == "llama3":
        return RopeScaling(
            kind="llama3",
            factor=rope["factor"],
            low_frequency_factor=rope["low_freq_factor"],
            high_frequency_factor=rope["high_freq_factor"],
            original_context=rope["original_max_position_embeddings"],
        )
    raise ValueError(f"the RoPE scaling is of the kind {kind!r}, but only default, linear and llama3 are computed here")


def _hugging_face_scaling(scaling: RopeScaling) -> dict[str, Any]:
    if scaling.kind == "none":
        return {}
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_context,
    }


def _shown(value: Any) -> str:
    return "given" if isinstance(value, dict) else repr(value)
