"""The header of a llama2.c file (legacy format, version 0) and where its tokenizer lies. Light: no torch.

28 bytes: dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size (negative: the output has weights of its own) and
seq_len, as int32; then all weights as float32 (github.com/karpathy/llama2.c, ``export.py``, ``legacy_export``).
"""

import struct
from pathlib import Path

from pydantic import ValidationError

from components.core.errors import ArtifactError
from components.model.config import ModelConfig

SUFFIX = ".bin"
HEADER = struct.Struct("<7i")
_LATER_VERSIONS = 0x616B3432  # "ak42", where version 0 has dim


def read_shape(path: Path) -> tuple[ModelConfig, int]:
    """The shape and the vocabulary size that the header of ``path`` says.

    Raises ``ArtifactError`` for a file of another format, and for one that is shorter or longer than its header says.
    """
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise ArtifactError(f"{path} has {len(header)} bytes: a llama2.c file begins with a header of {HEADER.size}")
    width, hidden_width, layers, heads, kv_heads, vocabulary, context = HEADER.unpack(header)
    if width == _LATER_VERSIONS:
        raise ArtifactError(f"{path} is a llama2.c file of version 1 or 2: export it with --version 0")
    try:
        config = ModelConfig(
            name=path.stem,
            layers=layers,
            width=width,
            hidden_width=hidden_width,
            heads=heads,
            kv_heads=kv_heads,
            context_length=context,
            tied=vocabulary > 0,
        )
    except (ValidationError, ZeroDivisionError) as error:
        raise ArtifactError(f"{path} does not begin with the header of a llama2.c file: {error}") from error
    expected = HEADER.size + 4 * _numbers(config, abs(vocabulary))
    if (size := path.stat().st_size) != expected:
        raise ArtifactError(
            f"{path} has {size:,} bytes, and its header asks for {expected:,}: it is truncated, or no llama2.c file of "
            "version 0"
        )
    return config, abs(vocabulary)


def _numbers(config: ModelConfig, vocab_size: int) -> int:
    """Weights, and the tables of cosines and sines that llama2.c once read from the file."""
    return config.parameters(vocab_size) + config.context_length * config.head_dim


def tokenizer_beside(path: Path, given: str = "") -> Path:
    """The tokenizer of a llama2.c file: the one that is ``given``, or the one that lies beside it by its usual name.

    Raises ``ArtifactError`` that says where it was looked for.
    """
    _, vocab_size = read_shape(path)
    candidates = [Path(given)] if given else [path.parent / f"tok{vocab_size}.bin", path.parent / "tokenizer.bin"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ArtifactError(
        f"{path} needs its tokenizer, and there is no {' and no '.join(map(str, candidates))}: "
        "name it with derive.tokenizer"
    )
