"""vLLM decides on ``<CALL>`` by the threshold itself, before it draws: ``vllm serve --logits-processors``.

A logit bias on ``<CALL>`` is a threshold under greedy decoding only. This logits processor compares the logit of
``<CALL>`` with the best other one. Where it is ahead by more than the request's threshold, nothing but ``<CALL>`` is
left; elsewhere ``<CALL>`` is out. So calls keep to the budget at every temperature, and need no logit bias. vLLM
applies processors of this kind before penalties and temperature, so these do not move the threshold either.

The file imports torch and vLLM only: copy it to where vLLM runs, which need not have this project. It is written for
the interface of vLLM's V1 model runner (``vllm.v1.sample.logits_processor``, published for 0.10.2 to 0.31; from 0.32 on
start vLLM with ``VLLM_USE_V2_MODEL_RUNNER=0``):

    PYTHONPATH=. VLLM_USE_V2_MODEL_RUNNER=0 vllm serve export --logits-processors vllm_plugin:CallThreshold

Requests carry ``"vllm_xargs": {"lacewing_call_id": ID, "lacewing_call_threshold": NUMBER}``; the gateway sends both. A
request without them is left alone.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

logger = logging.getLogger(__name__)

CALL_ID, THRESHOLD = "lacewing_call_id", "lacewing_call_threshold"


@dataclass(frozen=True)
class Rule:
    """What one request asks for."""

    call_id: int
    threshold: float


class CallThreshold(LogitsProcessor):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """Forces ``<CALL>`` where its logit exceeds the best other one by more than the request's threshold."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ``ValueError``, which vLLM answers with 400, for arguments that are not as they should be."""
        rule_of(sampling_params)

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._vocab_size = int(vllm_config.model_config.get_vocab_size())
        self._device, self._pinned = device, is_pin_memory
        self._rules: dict[int, Rule] = {}  # by the request's row in the batch
        self._rows = self._call_ids = self._thresholds = torch.empty(0)

    def is_argmax_invariant(self) -> bool:
        """It changes what greedy decoding takes."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests to their rows: removed, added and moved, in this order."""
        if batch_update is None:
            return
        before = dict(self._rules)
        for row in batch_update.removed:
            self._rules.pop(row, None)
        for row, params, _, _ in batch_update.added:
            self._put(row, self._usable(params))
        for row, to, direction in batch_update.moved:
            moved, replaced = self._rules.pop(row, None), self._rules.pop(to, None)
            self._put(to, moved)
            if direction == MoveDirectionality.SWAP:
                self._put(row, replaced)
        if self._rules != before:
            rules = self._rules.values()
            self._rows = self._tensor(list(self._rules), torch.long)
            self._call_ids = self._tensor([rule.call_id for rule in rules], torch.long)
            self._thresholds = self._tensor([rule.threshold for rule in rules], torch.float32)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """``logits``: [requests, vocabulary], changed in place."""
        if self._rules:
            logits[self._rows] = decided(logits[self._rows], self._call_ids, self._thresholds)
        return logits

    def _put(self, row: int, rule: Rule | None) -> None:
        if rule is None:
            self._rules.pop(row, None)
        else:
            self._rules[row] = rule

    def _usable(self, params: Any) -> Rule | None:
        """A request's rule. What is wrong with it is logged: an error here would end vLLM and every other request."""
        try:
            rule = rule_of(params)  # again: older releases do not ask ``validate_params``
        except ValueError as error:
            logger.warning("%s: ignored", error)
            return None
        if rule is not None and rule.call_id >= self._vocab_size:
            logger.warning("%s %d is not in the vocabulary of %d: ignored", CALL_ID, rule.call_id, self._vocab_size)
            return None
        return rule

    def _tensor(self, values: list[Any], dtype: torch.dtype) -> torch.Tensor:
        host = torch.tensor(values, dtype=dtype, pin_memory=self._pinned)
        return host.to(self._device, non_blocking=True)


def decided(logits: torch.Tensor, call_ids: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Logits that leave nothing but ``<CALL>``, or all but it.

    Arguments:
        logits: [rows, vocabulary]; a copy, which is changed.
        call_ids: [rows], the id of ``<CALL>``.
        thresholds: [rows], which the margin must exceed.
    """
    at = call_ids.unsqueeze(1)
    call = logits.gather(1, at)
    logits.scatter_(1, at, -torch.inf)
    called = call - logits.amax(dim=1, keepdim=True) > thresholds.unsqueeze(1)
    logits.masked_fill_(called, -torch.inf)
    return logits.scatter_(1, at, call.masked_fill(~called, -torch.inf))


def rule_of(sampling_params: Any) -> Rule | None:
    """What a request's ``SamplingParams`` ask for; ``None`` if nothing. Raises ``ValueError`` for half of it."""
    given = getattr(sampling_params, "extra_args", None) or {}
    call_id, threshold = given.get(CALL_ID), given.get(THRESHOLD)
    if call_id is None and threshold is None:
        return None
    if isinstance(call_id, bool) or not isinstance(call_id, int) or call_id < 0:
        raise ValueError(f"{CALL_ID} must be the id of <CALL>, a whole number from 0 on; given {call_id!r}")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not math.isfinite(threshold):
        raise ValueError(f"{THRESHOLD} must be a finite number; given {threshold!r}")
    return Rule(call_id, float(threshold))
