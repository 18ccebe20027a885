"""Generation of one text. Many texts together: ``decoder.py``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from components.model.decoder import Decoder
from components.model.sampling import Sampling, choose, text_sampling
from components.model.transformer import Transformer

__all__ = ["Sampling", "Step", "choose", "generate", "text_sampling"]


@dataclass(frozen=True)
class Step:
    """One generated token."""

    token: int
    """Its id."""
    logprob: float
    """Its natural log-probability under the model, suppressed tokens taken out, temperature not applied."""
    log_probabilities: Float[Tensor, "vocab"]
    """The same for every token of the vocabulary, on the CPU; -inf where suppressed."""


@torch.inference_mode()
def generate(model: Transformer, prompt_ids: Sequence[int], sampling: Sampling) -> Iterator[Step]:
    """Continue ``prompt_ids``, yielding each token as it is chosen.

    Arguments:
        model: in evaluation mode, on any device.
        prompt_ids: at least one id; it must leave room for one token in the context.
        sampling: see ``Sampling``. Generation also ends when the context is full.

    Raises ``InputError`` for an empty prompt or one that fills the context, when the first token is asked for.
    """
    decoder = Decoder(model)
    row = decoder.add(prompt_ids, sampling)
    while row.finish is None:
        rows, logits = decoder.read()
        if rows:
            log_probabilities = logits[0].log_softmax(dim=-1)
            (token,) = decoder.choose(rows, logits)
            decoder.write(row, [token])
            yield Step(token, log_probabilities[token].item(), log_probabilities)
