"""llama2.c's ``run.c`` in plain numpy: what a ``.bin`` file and its ``tokenizer.bin`` mean, apart from our code.

(github.com/karpathy/llama2.c, ``run.c``: ``forward``, ``encode``, ``decode``, ``generate`` at temperature 0.)
"""

import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float

BEGIN, _FIRST_BYTE = 1, 3


class ReferenceDecoder:
    """Greedy text of a model, one token at a time."""

    def __init__(self, weights: Path, tokenizer: Path) -> None:
        data = weights.read_bytes()
        self.width, self.hidden, self.layers, self.heads, self.kv_heads, vocabulary, self.context = struct.unpack_from(
            "<7i", data
        )
        self.size = self.width // self.heads
        self._numbers, self._place = np.frombuffer(data, "<f4", offset=28), 0
        layers, width, kv_width = self.layers, self.width, self.kv_heads * self.size
        self.embedding = self._take(abs(vocabulary), width)
        self.attention_norm = self._take(layers, width)
        self.query, self.key = self._take(layers, width, width), self._take(layers, kv_width, width)
        self.value, self.output = self._take(layers, kv_width, width), self._take(layers, width, width)
        self.ffn_norm = self._take(layers, width)
        self.w1, self.w2 = self._take(layers, self.hidden, width), self._take(layers, width, self.hidden)
        self.w3, self.final_norm = self._take(layers, self.hidden, width), self._take(width)
        self._take(self.context, self.size)
        self.head = self.embedding if vocabulary > 0 else self._take(-vocabulary, width)
        self.pieces, self.scores = _pieces(tokenizer.read_bytes())
        self.id = {piece: id for id, piece in enumerate(self.pieces)}
        self.keys: list[list[np.ndarray]] = [[] for _ in range(layers)]
        self.values: list[list[np.ndarray]] = [[] for _ in range(layers)]

    def _take(self, *shape: int) -> np.ndarray:
        start, self._place = self._place, self._place + int(np.prod(shape))
        return self._numbers[start : self._place].reshape(shape)

    def forward(self, token: int, position: int) -> Float[np.ndarray, " vocabulary"]:
        """Logits of the token that follows ``token``, which stands at ``position``."""
        x = self.embedding[token]
        for layer in range(self.layers):
            normed = _rms_norm(x, self.attention_norm[layer])
            query = self._rotated(self.query[layer] @ normed, position)
            self.keys[layer].append(self._rotated(self.key[layer] @ normed, position))
            self.values[layer].append((self.value[layer] @ normed).reshape(-1, self.size))
            x = x + self.output[layer] @ self._attended(query, layer)
            normed = _rms_norm(x, self.ffn_norm[layer])
            gate = self.w1[layer] @ normed
            x = x + self.w2[layer] @ (gate / (1 + np.exp(-gate)) * (self.w3[layer] @ normed))
        return self.head @ _rms_norm(x, self.final_norm)

    def _rotated(self, vector: np.ndarray, position: int) -> Float[np.ndarray, "heads size"]:
        pairs = vector.reshape(-1, self.size // 2, 2)
        angle = position / 10000.0 ** (np.arange(0, self.size, 2) / self.size)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angle)
        return np.stack((turned.real, turned.imag), axis=-1).reshape(-1, self.size)

    def _attended(self, query: np.ndarray, layer: int) -> np.ndarray:
        mixed = []
        for head in range(self.heads):
            shared = head // (self.heads // self.kv_heads)
            scores = np.array([query[head] @ key[shared] for key in self.keys[layer]]) / self.size**0.5
            weights = np.exp(scores - scores.max())
            mixed.append(
                sum(w * value[shared] for w, value in zip(weights / weights.sum(), self.values[layer], strict=True))
            )
        return np.concatenate(mixed)

    def encode(self, text: str) -> list[int]:
        """Ids as ``run.c`` finds them: a space in front, then the pair with the best score, again and again."""
        ids: list[int] = []
        for character in f" {text}" if text else "":
            known = self.id.get(character.encode())
            ids += [known] if known is not None else [byte + _FIRST_BYTE for byte in character.encode()]
        while True:
            best = max(
                ((self.scores[id], -at, id) for at in range(len(ids) - 1) if (id := self._joined(ids, at)) is not None),
                default=None,
            )
            if best is None:
                return ids
            ids[-best[1] : -best[1] + 2] = [best[2]]

    def _joined(self, ids: list[int], at: int) -> int | None:
        return self.id.get(self.pieces[ids[at]] + self.pieces[ids[at + 1]])

    def greedy(self, prompt: str, steps: int) -> bytes:
        """The prompt and what follows it; ``<s>`` ends a text."""
        ids = [BEGIN, *self.encode(prompt)]
        for position in range(steps):
            following = int(self.forward(ids[position], position).argmax())
            if position == len(ids) - 1:
                if following == BEGIN:
                    break
                ids.append(following)
        return b"".join(map(self._bytes, ids[1:]))

    def _bytes(self, id: int) -> bytes:
        return bytes([id - _FIRST_BYTE]) if _FIRST_BYTE <= id < _FIRST_BYTE + 256 else self.pieces[id]


def _rms_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight * x / np.sqrt((x * x).mean() + 1e-5)


def _pieces(data: bytes) -> tuple[list[bytes], list[float]]:
    pieces, scores, place = [], [], 4
    while place < len(data):
        score, length = struct.unpack_from("<fi", data, place)
        pieces.append(data[place + 8 : place + 8 + length])
        scores.append(score)
        place += 8 + length
    return pieces, scores
