"""Tiny llama2.c files: random weights, and a tokenizer of letters."""

import struct
from pathlib import Path

import numpy as np

LETTERS = [" ", *"abcdefghijklmnopqrstuvwxyz", " a", " th", "th", "he", " the", "in"]
PIECES = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS]


def write_files(folder: Path, kv_heads: int = 2, tied: bool = True) -> Path:
    """A model of 16 x 2 and its tokenizer, as ``folder/model.bin`` and ``folder/tokenizer.bin``."""
    width, hidden, layers, heads, vocabulary, context = 16, 24, 2, 4, len(PIECES), 32
    size = width // heads
    kv_width = kv_heads * size
    block = width * (2 + 2 * width + 2 * kv_width + 3 * hidden)
    count = vocabulary * width * (1 if tied else 2) + layers * block + width + context * size
    numbers = np.random.default_rng(0).normal(scale=0.4, size=count).astype("<f4")
    header = struct.pack("<7i", width, hidden, layers, heads, kv_heads, vocabulary if tied else -vocabulary, context)
    path = folder / "model.bin"
    path.write_bytes(header + numbers.tobytes())
    write_tokenizer(folder / "tokenizer.bin", PIECES)
    return path


def write_tokenizer(path: Path, pieces: list[str]) -> None:
    """Pieces with falling scores."""
    records = (struct.pack("<fi", -float(rank), len(each.encode())) + each.encode() for rank, each in enumerate(pieces))
    path.write_bytes(struct.pack("<i", max(map(len, pieces))) + b"".join(records))
