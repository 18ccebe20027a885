"""Cross-entropy and the statistics of every token, from a linear layer or from given logits.

Equals, for ``z = (x @ weight.T).float()`` and without CALL::

    linear_token_stats(x, weight, target).nll_full == F.cross_entropy(z, target, reduction="none")

without holding ``z`` in fp32, and tells besides what a model that may delegate needs: the loss with CALL left out,
and the probability of CALL. ``reference.py`` is the whole specification in thirty lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from kernels.cross_entropy.border import checked_linear, checked_logits
from kernels.cross_entropy.stats import TokenStats
from kernels.dispatch import Implementation

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


__all__ = ["TokenStats", "cross_entropy", "linear_token_stats"]

Mode = Literal["auto", "save", "recompute"]


def linear_token_stats(
    x: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "rows width"],
    target: Int[Tensor, "*tokens"],
    *,
    call_id: int | None = None,
    ignore_index: int = -100,
    n_cols: int | None = None,
    chosen: Int[Tensor, "*tokens k"] | None = None,
    mode: Mode = "auto",
    impl: Implementation | None = None,
    return_argmax: bool = False,
    return_entropy: bool = False,
) -> TokenStats:
    """The statistics of every token, differentiable; any loss may be made of them, even one that ranks all tokens.

    Arguments:
        x: input of the last linear layer; its last dimension contiguous (else it is copied).
        weight: of that layer, one row per column of logits, maybe padded with rows that ``n_cols`` leaves out.
        target: column of the right token, or ``ignore_index``. On CPU anything else is refused; on CUDA, where asking
            would stop the stream, such a row has an infinite loss and no gradient (and trips an assertion in the
            kernel if TRITON_DEBUG=1): loud, but nothing is trained on it.
        call_id: column of CALL, to be left out of ``lse_x``.
        n_cols: the real vocabulary; rows of ``weight`` from here on are padding: no probability, zero gradient.
        chosen: columns whose logits are wanted too, as ``z_chosen``: k for every token, in any order, twice the same
            if need be. They cost a gather and, on the way back, an addition of k numbers a row; no matrix product. On
            the CPU a column that is not there is refused; on CUDA it trips an assertion of torch's gather.
        mode: "save" keeps all logits for backward, in the dtype of the products; "recompute" makes a fourth matrix
            product instead; "auto" saves while they fit ``border.kept_bytes``.
        impl: "auto", "torch" or "triton"; see ``kernels.dispatch``.
        return_argmax, return_entropy: of the distribution without CALL.

    Products are made in autocast's dtype if autocast is on, else in that of ``x``; sums are fp32. Gradients come in
    the dtypes of ``x`` and ``weight``. Ignored rows: loss and gradient exactly 0. No rows: empty results.

    Raises ``ValueError`` for tensors, ids or options that do not fit together.
    """
    from kernels.cross_entropy.autograd import LinearTokenStats

    call = checked_linear(x, weight, target, call_id, ignore_index, n_cols, impl, chosen)
    keep = call.needed != (False, False) and call.keeps(mode)
    results = LinearTokenStats.apply(  # type: ignore[no-untyped-call]
        call.x, weight, call.target, call.chosen, call.rules, keep, return_argmax, return_entropy, call.triton
    )
    return _token_stats(results, target, ignore_index, call_id, chosen, return_argmax, return_entropy)


def cross_entropy(
    logits: Float[Tensor, "*tokens columns"],
    target: Int[Tensor, "*tokens"],
    *,
    ignore_index: int = -100,
    impl: Implementation | None = None,
) -> Float[Tensor, "*tokens"]:
    """``F.cross_entropy(logits.float(), target, reduction="none")`` with one pass each way over the logits.

    Arguments as in ``linear_token_stats``, fp32 sums and ``ValueError`` too.

    No model calls it, for none has logits at hand. It stays because the row kernels are tuned and their bandwidth is
    measured through it, with no matrix product beside them (``bench.tune``, goals C6).
    """
    from kernels.cross_entropy.autograd import LogitNll

    call = checked_logits(logits, target, ignore_index, impl)
    nll: Tensor = LogitNll.apply(  # type: ignore[no-untyped-call]
        call.x, call.target, call.rules, call.triton
    )
    return nll.view(target.shape)


def _token_stats(
    results: Sequence[Tensor],
    target: Tensor,
    ignore_index: int,
    call_id: int | None,
    chosen: Tensor | None,
    return_argmax: bool,
    return_entropy: bool,
) -> TokenStats:
    lse_x, z_y, z_c, z_chosen, argmax, entropy = results
    shape = target.shape
    return TokenStats(
        lse_x=lse_x.view(shape),
        z_y=z_y.view(shape),
        z_c=None if call_id is None else z_c.view(shape),
        ignored=target == ignore_index,
        argmax=argmax.view(shape) if return_argmax else None,
        entropy=entropy.view(shape) if return_entropy else None,
        z_chosen=None if chosen is None else z_chosen.view(chosen.shape),
    )
