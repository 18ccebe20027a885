"""A GGUF file: weights, shape, tokenizer and chat template in one, for llama.cpp and all that is built on it.

The rows of query and key are in another order there: llama.cpp's ``llama`` turns neighbouring pairs of a head by
position, Hugging Face's layout the two halves.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from components.core.atomic import replacing
from components.core.errors import InputError
from components.deployment.export.config import Precision
from components.deployment.export.gguf_tokenizer import write_tokenizer
from components.deployment.export.quantiser import fitting, quantization_type, restored, rounded
from components.model.config import ModelConfig
from components.model.transformer import Transformer, scaled_frequency

_OUTER = {"embedding.weight": "token_embd", "norm.weight": "output_norm", "head.weight": "output"}
_BLOCK = {
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up",
    "feed_forward.down": "ffn_down",
}
# The matrix of the embeddings, which is also that of the output, is kept finer, as llama.cpp's mixes do.
_FINER: Mapping[Precision, Precision] = {"q4_k": "q6_k", "q5_k": "q6_k"}


def write_gguf(model: Transformer, folder: Path, path: Path, name: str, precision: Precision) -> Counter[Precision]:
    """Write ``model``, whose tokenizer lies in ``folder``, to ``path``, and give it the weights that others will read.

    Arguments:
        model: its weights are replaced by what is left of them after rounding, so that the loss can be measured.
        name: what the model is called.

    Returns how many matrices have which precision: rows that do not fit a format's blocks take a finer one.

    Raises ``InputError`` if gguf is not installed or the tokenizer cannot be written.
    """
    try:
        from gguf import GGUFWriter, LlamaFileType
    except ImportError as error:
        raise InputError("GGUF files need the gguf library: pip install 'lacewing[gguf]'") from error
    used: Counter[Precision] = Counter()
    with replacing(path) as temporary:
        writer = GGUFWriter(temporary, "llama")
        try:
            writer.add_name(name)
            _write_shape(writer, model.config, model.vocab_size)
            writer.add_file_type(getattr(LlamaFileType, _FILE_TYPES[precision]))
            write_tokenizer(writer, folder)
            for ours, weight in model.named_parameters():
                chosen, stored = _stored(ours, weight, model.config, precision)
                used[chosen] += weight.dim() == 2
                writer.add_tensor(gguf_name(ours), stored, raw_dtype=quantization_type(chosen))
            for theirs, factors in _rope_factors(model.config):
                writer.add_tensor(theirs, factors)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    return +used


_FILE_TYPES: Mapping[Precision, str] = {
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "q8_0": "MOSTLY_Q8_0",
    "q6_k": "MOSTLY_Q6_K",
    "q5_k": "MOSTLY_Q5_K_S",
    "q4_k": "MOSTLY_Q4_K_S",
}


def gguf_name(ours: str) -> str:
    """GGUF's name of a parameter: ``blocks.3.attention.query.weight`` is ``blk.3.attn_q.weight``."""
    if ours in _OUTER:
        return f"{_OUTER[ours]}.weight"
    _, block, rest = ours.split(".", 2)
    return f"blk.{block}.{_BLOCK[rest.removesuffix('.weight')]}.weight"


@torch.no_grad()
def _stored(
    ours: str, weight: Tensor, config: ModelConfig, precision: Precision
) -> tuple[Precision, np.ndarray[Any, Any]]:
    """How a weight is stored; the weight itself becomes what is read of that."""
    values = weight.detach().float().cpu().numpy()
    if weight.dim() == 1:  # norms: few, and fp32 everywhere
        return "f32", values
    wanted = _FINER.get(precision, precision) if ours in _OUTER else precision
    chosen = fitting(wanted, values.shape[1])
    heads = {"query": config.heads, "key": config.kv_heads}.get(ours.split(".")[-2], 0)
    stored = rounded(_pairs_together(values, heads) if heads else values, chosen)
    read = restored(stored, chosen)
    weight.copy_(torch.from_numpy(_halves_together(read, heads) if heads else read))
    return chosen, stored


def _pairs_together(matrix: Float[np.ndarray, "rows width"], heads: int) -> Float[np.ndarray, "rows width"]:
    """Rows of each head reordered from halves (0, 1, ... | n/2, ...) to pairs (0, n/2, 1, n/2 + 1, ...)."""
    return matrix.reshape(heads, 2, -1, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)


def _halves_together(matrix: Float[np.ndarray, "rows width"], heads: int) -> Float[np.ndarray, "rows width"]:
    return matrix.reshape(heads, -1, 2, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)


def _write_shape(writer: Any, config: ModelConfig, vocab_size: int) -> None:
    writer.add_vocab_size(vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.hidden_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    if config.rope_scaling.kind == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_scaling.factor)


def _rope_factors(config: ModelConfig) -> Iterator[tuple[str, Float[np.ndarray, "frequencies"]]]:
    """By what llama.cpp divides each rotary frequency, where Llama 3's scaling says so (arXiv:2407.21783, 3.4.3)."""
    if config.rope_scaling.kind == "llama3":
        frequency = config.rope_theta ** -(torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim)
        yield "rope_freqs.weight", (frequency / scaled_frequency(frequency, config.rope_scaling)).numpy()
