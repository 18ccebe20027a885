"""A llama2.c file (legacy format, version 0) with its ``tokenizer.bin``; see ``llama2c_header`` for the header.

Its rotary positions turn neighbouring pairs (2i, 2i + 1) of a head, ours the pairs (i, i + head / 2), so the rows of
query and key are put in another order. Its models end a text with ``<s>``, the token that begins one.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from components.core.errors import ArtifactError
from components.data.tokenizer import SPACE
from components.derive.given import GivenModel, StateDict
from components.derive.llama2c_header import HEADER, read_shape, tokenizer_beside
from components.model.config import ModelConfig

_UNKNOWN, _BEGIN, _END = "<unk>", "<s>", "</s>"
_FIRST_PIECES = (_UNKNOWN, _BEGIN, _END)


def read_llama2c(path: Path, tokenizer: str = "") -> GivenModel:
    """Read the weights in ``path``, and the tokenizer that is named or lies beside it.

    Raises ``ArtifactError`` for files that are truncated, of another format, or do not belong together.
    """
    config, vocab_size = read_shape(path)
    pieces = read_pieces(tokenizer_beside(path, tokenizer), vocab_size)
    return GivenModel(config, _state(path, config, vocab_size), tokenizer_record(pieces), end=_BEGIN)


def _state(path: Path, config: ModelConfig, vocab_size: int) -> StateDict:
    numbers = torch.from_numpy(np.fromfile(path, dtype="<f4", offset=HEADER.size))
    layers, width, hidden = config.layers, config.width, config.hidden_width
    kv_width = config.kv_heads * config.head_dim
    shapes = {
        "embedding": (vocab_size, width),
        "attention_norm": (layers, width),
        "attention.query": (layers, width, width),
        "attention.key": (layers, kv_width, width),
        "attention.value": (layers, kv_width, width),
        "attention.output": (layers, width, width),
        "feed_forward_norm": (layers, width),
        "feed_forward.gate": (layers, hidden, width),
        "feed_forward.down": (layers, width, hidden),
        "feed_forward.up": (layers, hidden, width),
        "norm": (width,),
        "rotary tables": (config.context_length, config.head_dim),
        **({} if config.tied else {"head": (vocab_size, width)}),
    }
    parts = torch.split(numbers, [int(np.prod(shape)) for shape in shapes.values()])
    tensors = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    del tensors["rotary tables"]  # llama2.c computes them too
    return dict(_by_our_names(tensors, config))


def _by_our_names(tensors: StateDict, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        if name in ("embedding", "norm", "head"):
            yield f"{name}.weight", tensor
            continue
        for layer, weight in enumerate(tensor):
            rotated = name in ("attention.query", "attention.key")
            yield f"blocks.{layer}.{name}.weight", half_split(weight, config.head_dim) if rotated else weight


def half_split(weight: Float[Tensor, "rows width"], head_dim: int) -> Float[Tensor, "rows width"]:
    """Rows of query or key from neighbouring pairs to pairs of the two halves of each head."""
    return weight.view(-1, head_dim // 2, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def read_pieces(path: Path, vocab_size: int) -> list[tuple[str, float]]:
    """The pieces of a ``tokenizer.bin`` with their scores: float32 score, int32 length, bytes, for each token.

    Raises ``ArtifactError`` if the file holds another number of them, is truncated or is no such file.
    """
    data = path.read_bytes()
    pieces: list[tuple[str, float]] = []
    place = 4  # the first number is the length of the longest piece
    try:
        while place < len(data):
            score, length = struct.unpack_from("<fi", data, place)
            piece = data[place + 8 : place + 8 + length]
            if length < 0 or len(piece) < length:
                raise ValueError(f"it ends within token {len(pieces)}")
            pieces.append((piece.decode(), score))
            place += 8 + length
    except (struct.error, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as the tokenizer of a llama2.c model: {error}") from error
    if len(pieces) != vocab_size:
        raise ArtifactError(f"{path} has {len(pieces)} tokens and the model {vocab_size}: they do not belong together")
    return pieces


def tokenizer_record(pieces: list[tuple[str, float]]) -> dict[str, Any]:
    """``tokenizer.json`` of SentencePiece's BPE: the pair whose union has the highest score is merged first."""
    names = [*_FIRST_PIECES, *(piece.replace(" ", SPACE) for piece, _ in pieces[len(_FIRST_PIECES) :])]
    ids = {name: id for id, name in enumerate(names)}
    if len(ids) < len(names):
        raise ArtifactError(f"{len(names) - len(ids)} tokens of the llama2.c tokenizer occur twice")
    by_score = sorted(range(len(names)), key=lambda id: -pieces[id][1])
    halves = (
        (names[id][:cut], names[id][cut:])
        for id in by_score
        if id >= len(_FIRST_PIECES)
        for cut in range(1, len(names[id]))
    )
    return {
        "version": "1.0",
        "added_tokens": [_special(name, id) for id, name in enumerate(_FIRST_PIECES)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": _UNKNOWN,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": ids,
            "merges": [[left, right] for left, right in halves if left in ids and right in ids],
        },
    }


def _special(name: str, id: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": name, **flags, "special": True}
