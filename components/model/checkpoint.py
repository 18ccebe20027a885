"""Model folders in Hugging Face's Llama layout: ``model.safetensors``, ``config.json``, ``generation_config.json``.

transformers, llama.cpp and vLLM can read them.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise_tensors
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from components.core.atomic import write_bytes, write_json
from components.core.errors import ArtifactError
from components.data.special_tokens import SpecialTokens
from components.model.config import ModelConfig
from components.model.llama_config import CONFIG, generation_config, hugging_face_config, read_config
from components.model.transformer import Transformer

WEIGHTS = "model.safetensors"
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
_HF_OUTER_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


def save_model(model: Transformer, folder: Path, special: SpecialTokens) -> None:
    """Write the weights (fp32) and both configs into ``folder``, each file atomically; the weights come last.

    ``special``: of the model's tokenizer, for runtimes that read only the configs.
    """
    save_state(model.config, dict(model.named_parameters()), folder, special)


def save_state(config: ModelConfig, state: Mapping[str, Tensor], folder: Path, special: SpecialTokens) -> None:
    """``save_model`` for the weights of a model by the names of its parameters, without the model."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, hugging_face_config(config, len(state["embedding.weight"]), special))
    write_json(folder / GENERATION_CONFIG, generation_config(special))
    tensors = {
        hugging_face_name(name): parameter.detach().to("cpu", torch.float32).contiguous()
        for name, parameter in state.items()
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
    if fault := first_difference(model, shapes_of(tensors)):
        raise ArtifactError(f"{path} does not hold the model that {CONFIG} describes: {fault}")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[hugging_face_name(name)])
    return model.to(device=device, dtype=dtype).eval()


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


def outline(config: ModelConfig, vocab_size: int) -> Transformer:
    """The model without weights: names and shapes only."""
    with torch.device("meta"), _NoInitialisation():
        return Transformer(config, vocab_size)


class _NoInitialisation(TorchFunctionMode):
    """Nothing is drawn for new weights: it would take longer than to read them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:  # methods of tensors have no module
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def first_difference(model: Transformer, shapes: Mapping[str, torch.Size]) -> str | None:
    """How tensors of these shapes, by Hugging Face's names, differ from those of ``model``, in words."""
    expected = {hugging_face_name(name): parameter for name, parameter in model.named_parameters()}
    return differing(shapes_of(expected), shapes)


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    """The shape of each."""
    return {name: tensor.shape for name, tensor in tensors.items()}


def differing(expected: Mapping[str, torch.Size], shapes: Mapping[str, torch.Size]) -> str | None:
    """The first way in which tensors of these shapes are not what is expected, in words; ``None`` if they are."""
    if missing := sorted(expected.keys() - shapes.keys()):
        return f"{len(missing)} tensors are missing, among them {missing[0]}"
    if unknown := sorted(shapes.keys() - expected.keys()):
        return f"{len(unknown)} tensors are unknown, among them {unknown[0]}"
    for name, shape in expected.items():
        if shapes[name] != shape:
            return f"{name} has shape {list(shapes[name])}, expected {list(shape)}"
    return None
