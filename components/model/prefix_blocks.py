"""What has been read of prompts, kept for prompts that begin alike: a system message, a page that is asked about twice.

A prompt is kept in blocks of ``BLOCK`` tokens, each under a digest of all tokens up to its end (as vLLM has it,
arXiv:2309.06180), so common beginnings are stored once. Attention of a prompt is made in the same blocks, and a block
depends on nothing behind it: a text is the same to the last bit whether its prompt was read or found here. An adapter
reads a text in another way, so what it has read is found by texts with the same adapter only.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from components.model.decoder_pass import BLOCK


class Stored(NamedTuple):
    """Keys and values of neighbouring tokens."""

    keys: Float[Tensor, "layers tokens kv_heads head"]
    values: Float[Tensor, "layers tokens kv_heads head"]


class PrefixBlocks:
    """Blocks of prompts; those that were not asked for the longest are forgotten first. For one thread."""

    def __init__(self, max_tokens: int) -> None:
        """``max_tokens``: kept at most; each costs what it costs in the cache of a decoder."""
        self.found_tokens = 0
        """Tokens that did not have to be read again, so far."""
        self._max_blocks = max_tokens // BLOCK
        self._blocks: OrderedDict[bytes, Stored] = OrderedDict()  # the one that was asked for last at the end

    @torch.inference_mode()
    def find(self, prompt: Sequence[int], adapter: int = 0) -> Stored | None:
        """The longest beginning of ``prompt`` that is kept, and not all of it; ``None`` if there is none.

        ``adapter``: number of the one that reads it; 0 for none.
        """
        found = []
        for digest in _digests(prompt[:-1], adapter):
            if digest not in self._blocks:
                break
            found.append(digest)
        if not found:
            return None
        self._touch(found)
        self.found_tokens += len(found) * BLOCK
        blocks = [self._blocks[digest] for digest in found]
        return Stored(
            torch.cat([block.keys for block in blocks], dim=1), torch.cat([block.values for block in blocks], dim=1)
        )

    @torch.inference_mode()
    def keep(
        self,
        prompt: Sequence[int],
        keys: Float[Tensor, "layers capacity kv_heads head"],
        values: Float[Tensor, "layers capacity kv_heads head"],
        adapter: int = 0,
    ) -> None:
        """Copy the whole blocks of ``prompt``, which a decoder has read from its beginning or found here.

        ``adapter``: number of the one that it was read with; 0 for none.
        """
        digests = list(_digests(prompt, adapter))[: self._max_blocks]
        for number, digest in enumerate(digests):
            if digest not in self._blocks:
                tokens = slice(number * BLOCK, (number + 1) * BLOCK)
                self._blocks[digest] = Stored(keys[:, tokens].clone(), values[:, tokens].clone())
        self._touch(digests)
        while len(self._blocks) > self._max_blocks:
            self._blocks.popitem(last=False)

    def _touch(self, digests: Sequence[bytes]) -> None:
        """A beginning is of more use than what follows it, so it is forgotten later."""
        for digest in reversed(digests):
            self._blocks.move_to_end(digest)


def _digests(prompt: Sequence[int], adapter: int) -> Iterator[bytes]:
    """For every whole block, of the adapter and all tokens up to its end."""
    digest = adapter.to_bytes(8)
    for begin in range(0, len(prompt) - BLOCK + 1, BLOCK):
        block = np.asarray(prompt[begin : begin + BLOCK], dtype=np.int64).tobytes()
        digest = hashlib.blake2b(digest + block, digest_size=16).digest()
        yield digest
