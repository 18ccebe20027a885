"""Part of the way back to the base: the finished weights lie between the base's and the tuned ones.

    weight = base + share * (tuned - base)

(WiSE-FT, arXiv:2109.01903.) Near the base, what is forgotten grows with the square of the way, and what was learnt
about in proportion; so a larger learning rate, and then a step back, keeps more of both than a smaller learning rate.
The rows of the special tokens stay as tuned: no text of the pretraining holds one, and without them answers do not end.
"""

import torch
from torch import nn

from components.data.special_tokens import SpecialTokens
from components.model.transformer import OutputEmbedding, Transformer


@torch.no_grad()
def blend(model: Transformer, base: Transformer, share: float, special: SpecialTokens) -> None:
    """Set the weights of ``model`` to ``share`` of the way from those of ``base``, in place."""
    rows = sorted(special.ids.values())
    by_token = [part.weight for part in model.modules() if isinstance(part, nn.Embedding | OutputEmbedding)]
    kept = [(weight, weight[rows].clone()) for weight in by_token]
    before = dict(base.named_parameters())
    for name, weight in model.named_parameters():
        weight.copy_(torch.lerp(before[name].to(weight.device), weight, share))
    for weight, tuned in kept:
        weight[rows] = tuned
