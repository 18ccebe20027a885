"""Which targets a model learns, which ones it delegates to ``<CALL>``, and which ones it ignores.

Twelve selections, each a pure function of what is known about every token of a batch. Grades of evidence for each:
[P] the abstract of LaCy (arXiv:2602.12005), [R] reported by readers of that paper, [I] our own reading.

All of them choose ``k = round(budget * valid)`` tokens, fewer if there are fewer candidates (or, with
``budget_of=facts``, the share ``fraction_of_facts`` of the factual ones). Equal ranks go to the earlier token. Nothing
here waits for the device, and nothing carries a gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.delegation.config import DelegationConfig, SelectionName

Rule = Callable[["Statistics", Int[Tensor, ""], torch.Generator], "Selection"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Statistics:
    """Per-token statistics of the targets of a batch, one row each. Losses: in nats, detached, without ``<CALL>``."""

    loss: Float[Tensor, "rows"]
    """The model's own loss in this forward pass. A loss that includes ``<CALL>`` would grow where the model has begun
    to call, so that a token that was delegated once would stay delegated."""
    factual: Bool[Tensor, "rows"]
    """States a fact."""
    valid: Bool[Tensor, "rows"]
    """Is a target at all; budgets are shares of these."""
    eligible: Bool[Tensor, "rows"]
    """May be delegated or dropped: valid, no document boundary, not the first token of a document."""
    judged: Bool[Tensor, "rows"] | None = None
    """Belongs to a value that a judge labelled, if a judge has read the text."""
    reference_loss: Float[Tensor, "rows"] | None = None
    """That of a frozen reference model."""
    helper_right: Bool[Tensor, "rows"] | None = None
    """Whether the helper would give exactly this token."""
    helper_loss: Float[Tensor, "rows"] | None = None
    """The helper's."""


class Selection(NamedTuple):
    """What happens to every token."""

    delegated: Bool[Tensor, "rows"]
    """Teaches ``<CALL>``."""
    dropped: Bool[Tensor, "rows"]
    """Teaches nothing."""
    learned: Bool[Tensor, "rows"]
    """Teaches its ground truth. Only ``defer`` teaches both for one token."""

    def rows(self, some: slice) -> "Selection":
        """The part that concerns these rows."""
        return Selection(*(mask[some] for mask in self))


def select(stats: Statistics, config: DelegationConfig, generator: torch.Generator) -> Selection:
    """What ``config.selection`` makes of these tokens.

    ``generator``, on the tokens' device, decides ``fact`` and ``random``; the others never draw from it. Raises
    ``ValueError`` if the selection looks at something that ``stats`` does not have.
    """
    if config.budget_of == "tokens":
        quota = stats.valid.sum().double() * config.budget
    else:
        quota = (stats.factual & stats.eligible).sum().double() * config.fraction_of_facts
    return RULES[config.selection](stats, quota.round().long(), generator)


def ntp(stats: Statistics, quota: Tensor, generator: torch.Generator) -> Selection:
    """Plain next-token prediction: nothing is delegated. Baseline [R]; it can still call after the fact (post-hoc)."""
    return _delegating(stats, torch.zeros_like(stats.valid))


def loss(stats: Statistics, quota: Tensor, generator: torch.Generator) -> Selection:
    """The highest losses of all tokens. Baseline [R]: what factuality adds is the difference to it."""
    return _delegating(stats, _highest(quota, stats.eligible, stats.loss))


def fact(stats: Statistics, quota: Tensor, generator: torch.Generator) -> Selection:
    """Random factual tokens. Ablation [I]: what ranking by loss adds is the difference to it."""
    return _delegating(stats, _highest(quota, stats.eligible & stats.factual, _noise(stats, generator)))


def random(stats: Statistics, quota: Tensor, generator: torch.Generator) -> Selection:
    """Random tokens. A sanity check [I]."""
    return _delegating(stats, _highest(quota, stats.eligible, _noise(stats, generator)))


def lacy(stats: Statistics, quota: Tensor, generator: torch.Generator) -> Selection:
    """The highest losses among factual tokens: LaCy itself [P], by top-k in the batch [R]."""
    return _delegating(stats, _highest(quota, stats.eligible & stats.factual, stats.loss))


def rho_call(stats: Statistics, quota: Tensor, generator: torch.Generator) -> Selection:
    """High losses that the reference does not beat: not learnable even by it. Baseline [R], this mapping [I].

    Of the ``2 k`` highest losses, the ``k`` with the lowest excess over the reference (arXiv:2404.07965). Where model
    and reference agree, the higher loss goes first.
    """
    excess = stats.loss - _given(stats.reference_loss, "rho_call", "reference_loss")
    high = _highest(2 * quota, stats.eligible, stats.loss)
    return _delegating(stats, _highest(quota, high, -excess, stats.loss))


def rho_ignore(stats: Statistics, quota: Tensor, generator: torch.Generator) -> Selection:
    """Learn only where the excess over the reference is high: Rho-1 itself (arXiv:2404.07965) [R].

    The ``k`` tokens of lowest excess are dropped; a budget of 0.4 keeps the 60 % that Rho-1 kept.
    """
    excess = stats.loss - _given(stats.reference_loss, "rho_ignore", "reference_loss")
    return _dropping(stats, _highest(quota, stats.eligible, -excess))


def judge(stats: Statistics, quota: Tensor, generator: torch.Generator) -> Selection:
    """Values that a judge labelled, filled up by the highest losses among factual tokens to an equal budget. [R], [I]

    If the judge marked more than the budget holds, those of highest loss.
    """
    judged = _given(stats.judged, "judge", "judged")
    return _delegating(stats, _highest(quota, stats.eligible & (stats.factual | judged), judged.float(), stats.loss))


def ignore(stats: Statistics, quota: Tensor, generator: torch.Generator) -> Selection:
    """Drops what ``lacy`` would delegate, and learns no ``<CALL>``. Ablation [R]."""
    return _dropping(stats, lacy(stats, quota, generator).delegated)


def ignore_facts(stats: Statistics, quota: Tensor, generator: torch.Generator) -> Selection:
    """Drops every factual token, whatever the budget. Ablation [R]."""
    return _dropping(stats, stats.eligible & stats.factual)


def helper_gain(stats: Statistics, quota: Tensor, generator: torch.Generator) -> Selection:
    """Where the helper does better, by how much. Beyond the paper [I]; the signal of Co-LLM (arXiv:2403.03870).

    Labels of facts play no part: a token that the helper does not predict better stays with the model.
    """
    gain = stats.loss - _given(stats.helper_loss, "helper_gain", "helper_loss")
    return _delegating(stats, _highest(quota, stats.eligible & (gain > 0), gain))


def defer(stats: Statistics, quota: Tensor, generator: torch.Generator) -> Selection:
    """Every token that the helper has right, its ground truth learned as well. Beyond the paper [I].

    Learning to defer (Mozannar and Sontag, arXiv:2006.01862): -log p(y) - [helper right] log p(CALL) is a consistent
    surrogate, so training needs no budget; the threshold at inference sets the calls.
    """
    right = stats.eligible & _given(stats.helper_right, "defer", "helper_right")
    return Selection(right, torch.zeros_like(right), stats.valid)


RULES: dict[SelectionName, Rule] = {
    "ntp": ntp,
    "loss": loss,
    "fact": fact,
    "random": random,
    "lacy": lacy,
    "rho_call": rho_call,
    "rho_ignore": rho_ignore,
    "judge": judge,
    "ignore": ignore,
    "ignore_facts": ignore_facts,
    "helper_gain": helper_gain,
    "defer": defer,
}
LOOKS_AT_FACTS: frozenset[SelectionName] = frozenset({"fact", "lacy", "judge", "ignore", "ignore_facts"})
LOOKS_AT_REFERENCE: frozenset[SelectionName] = frozenset({"rho_call", "rho_ignore"})
LOOKS_AT_HELPER: frozenset[SelectionName] = frozenset({"helper_gain", "defer"})


def _highest(quota: Tensor, candidates: Tensor, *keys: Tensor) -> Bool[Tensor, "rows"]:
    """The ``quota`` candidates with the highest first key; later keys decide between equals, then the earlier row.

    By rank, not ``topk``: the quota is a number on the device, and reading it would make training wait.
    """
    rows = torch.arange(len(candidates), device=candidates.device)
    order = rows
    for key in (*reversed(keys), candidates.float()):
        order = order[torch.sort(key[order], descending=True, stable=True).indices]
    chosen = torch.empty_like(candidates)
    chosen[order] = rows < torch.minimum(quota, candidates.sum())
    return chosen


def _noise(stats: Statistics, generator: torch.Generator) -> Float[Tensor, "rows"]:
    return torch.rand(stats.loss.shape, generator=generator, device=stats.loss.device)


def _delegating(stats: Statistics, delegated: Tensor) -> Selection:
    return Selection(delegated, torch.zeros_like(delegated), stats.valid & ~delegated)


def _dropping(stats: Statistics, dropped: Tensor) -> Selection:
    return Selection(torch.zeros_like(dropped), dropped, stats.valid & ~dropped)


def _given(value: _T | None, selection: str, name: str) -> _T:
    if value is None:
        raise ValueError(f"the selection {selection} looks at {name}, which these statistics do not have")
    return value
