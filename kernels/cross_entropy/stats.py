"""What the kernel knows about every token, and what follows from it.

Equals, with ``z`` the logits of a row in fp32, ``y`` its target and ``c`` the column of CALL::

    lse_x = logsumexp(z without column c);  z_y = z[y];  z_c = z[c];  z_chosen = z[chosen]

Everything else is arithmetic on these. The sum leaves CALL out from the start: taking it out afterwards,
log(exp(lse) - exp(z_c)), leaves nothing where CALL is almost certain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class TokenStats:
    """Per-token results in the shape of ``target``, in nats; fp32, or fp64 for fp64 logits.

    ``lse_x``, ``z_y``, ``z_c`` and ``z_chosen`` carry gradients, and with them all that is derived from them.
    Ignored rows have ``z_y == 0``, every nll exactly 0, and send no gradient back from anything; ``lse_x``, ``z_c`` and
    ``z_chosen`` are theirs all the same. Without CALL nothing is left out: ``lse_x`` is the ordinary logsumexp.
    """

    lse_x: Float[Tensor, "*tokens"]  # logsumexp of all real columns but CALL's
    z_y: Float[Tensor, "*tokens"]  # logit of the target
    z_c: Float[Tensor, "*tokens"] | None  # logit of CALL
    ignored: Bool[Tensor, "*tokens"]
    argmax: Int[Tensor, "*tokens"] | None = None  # i32; the most likely column, CALL left out
    entropy: Float[Tensor, "*tokens"] | None = None  # of the distribution without CALL; carries no gradient
    z_chosen: Float[Tensor, "*tokens k"] | None = None  # logits of the columns that were asked for

    @property
    def nll_excl(self) -> Float[Tensor, "*tokens"]:
        """-log P(target | not CALL). Means nothing where the target is CALL itself: use ``nll_full`` there."""
        return (self.lse_x - self.z_y).masked_fill(self.ignored, 0.0)

    @property
    def lse_full(self) -> Float[Tensor, "*tokens"]:
        """logsumexp of all real columns; its square is the z-loss."""
        return self.lse_x if self.z_c is None else torch.logaddexp(self.lse_x, self.z_c)

    @property
    def nll_full(self) -> Float[Tensor, "*tokens"]:
        """-log P(target), CALL being one of the possible tokens."""
        if self.z_c is None:
            return self.nll_excl
        return (self.lse_full - self.z_y).masked_fill(self.ignored, 0.0)

    @property
    def logp_call(self) -> Float[Tensor, "*tokens"]:
        """log P(CALL). Raises ``ValueError`` if the call named no CALL."""
        if self.z_c is None:
            raise ValueError("call_id was None, so no probability of CALL is known; give the id of the CALL token")
        return F.logsigmoid(self.z_c - self.lse_x)

    def detached(self) -> TokenStats:
        """The same numbers without gradients."""
        z_c = None if self.z_c is None else self.z_c.detach()
        z_chosen = None if self.z_chosen is None else self.z_chosen.detach()
        lse_x, z_y = self.lse_x.detach(), self.z_y.detach()
        return TokenStats(lse_x, z_y, z_c, self.ignored, self.argmax, self.entropy, z_chosen)
