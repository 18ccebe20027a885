"""Models of this platform: an artifact of a training, or a bundle as it is served.

Likelihoods are the small model's own, with ``<CALL>`` left out of the softmax and its mass apart. What a bundle writes
goes through its cascade, which asks the helper. What texts have in common at their beginning is computed once, and a
result does not depend on what else is asked or on ``batch_tokens`` (see ``components.model.continuations``). A context
stands at the beginning of a document, after the boundary token.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Bool

from components.cascade.calibration import NEVER_CALLS
from components.cascade.config import CascadeConfig
from components.cascade.decoding import CascadeRequest, CascadeStep
from components.data.tokenizer import TextTokenizer
from components.evaluation.autocast import scoring_device
from components.evaluation.gate.documents import token_sizes
from components.evaluation.gate.served import ServedModel, served
from components.evaluation.text_models import predicted
from components.evaluation.text_models.base import GREEDY, Continuation, Draw, Likelihood, TokenScores, Written
from components.evaluation.text_models.predicted import Predicted, Stretch
from components.evaluation.text_models.requests import encoded
from components.model.bundle import Bundle
from components.model.checkpoint import load_model
from components.model.continuations import score_continuations
from components.model.generate import text_sampling
from components.training.trained import TrainedModel

BATCH_TOKENS = 8192
_WRITTEN_TOGETHER = 16


@dataclass
class LacewingModel:
    """A ``TextModel`` over our own network."""

    name: str
    identity: str
    served: ServedModel
    batch_tokens: int = BATCH_TOKENS
    """Tokens in one forward pass; costs memory, changes no result."""
    held: ExitStack = field(default_factory=ExitStack)
    """What ``close`` gives back."""

    @classmethod
    def of_training(
        cls, artifact: TrainedModel, name: str, device: str = "auto", batch_tokens: int = BATCH_TOKENS
    ) -> Self:
        """The model of a training, plain or taught to call; it has no helper. Raises ``ArtifactError`` if damaged."""
        model = artifact.load(scoring_device(device))
        tokenizer = TextTokenizer.load(artifact.model_folder)
        ready = ServedModel(model, tokenizer, None, NEVER_CALLS, CascadeConfig(budget=0.0))
        return cls(name, artifact.content, ready, batch_tokens)

    @classmethod
    def of_bundle(cls, bundle: Bundle, name: str, device: str = "auto", batch_tokens: int = BATCH_TOKENS) -> Self:
        """A bundle with its helper.

        Raises ``ArtifactError`` if it is damaged and ``HelperMissingError`` if its helper cannot be opened.
        """
        with ExitStack() as stack:
            ready = stack.enter_context(served(bundle, scoring_device(device)))
            return cls(name, bundle.content, ready, batch_tokens, stack.pop_all())

    @classmethod
    def of_folder(cls, folder: Path, name: str, identity: str, device: str = "auto", batch: int = BATCH_TOKENS) -> Self:
        """A model beside its tokenizer, without a record; it has no helper. Raises ``ArtifactError`` if damaged."""
        model = load_model(folder, scoring_device(device))
        ready = ServedModel(model, TextTokenizer.load(folder), None, NEVER_CALLS, CascadeConfig(budget=0.0))
        return cls(name, identity, ready, batch)

    @property
    def context_length(self) -> int:
        return self.served.model.config.context_length

    def close(self) -> None:
        self.held.close()

    def token_scores(self, texts: Sequence[str]) -> list[TokenScores]:
        tokenizer = self.served.tokenizer
        documents = tokenizer.encode_batch(list(texts))
        sizes = [token_sizes(tokenizer, np.asarray(ids, dtype=np.int64)) for ids in documents]
        return predicted.token_scores(self._predicted, documents, sizes, tokenizer.end_of_text_id, self.context_length)

    def delegated(self, scores: TokenScores) -> Bool[np.ndarray, " tokens"] | None:
        """Where it would call at the budget that it is served with; ``None`` if it calls no one, or by its entropy."""
        config = self.served.config
        if self.served.helper is None or config.call_score == "entropy":
            return None
        asks = scores.call if config.call_score == "call" else 1 - scores.confidence
        wanted: Bool[np.ndarray, " tokens"] = asks > self.served.calibration.threshold(config.budget, config.call_score)
        return wanted

    def likelihoods(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        tokenizer = self.served.tokenizer
        tokens = encoded(requests, tokenizer.encode_batch, tokenizer.end_of_text_id)
        return predicted.likelihoods(self._predicted, tokens, self.context_length)

    def write(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        stop: Sequence[str] = (),
        presence_penalty: float = 0.0,
        draw: Draw = GREEDY,
    ) -> list[Written]:
        tokenizer = self.served.tokenizer
        samplings = [
            text_sampling(
                tokenizer.special,
                max_tokens,
                temperature=draw.temperature,
                top_p=draw.top_p,
                seed=draw.seed + number,
                presence_penalty=presence_penalty,
            )
            for number in range(len(prompts))
        ]
        room = max(1, self.context_length - max_tokens)
        requests = [
            CascadeRequest([tokenizer.end_of_text_id, *ids][-room:], sampling)
            for ids, sampling in zip(
                tokenizer.encode_batch([prompt.rstrip(" ") for prompt in prompts]), samplings, strict=True
            )
        ]
        writing = _Writing(self.served, stop)
        try:
            return writing.all(requests)
        finally:
            writing.decoding.close()

    def _predicted(self, stretches: Sequence[Stretch]) -> list[Predicted]:
        sequences = [(*stretch.inputs, stretch.targets[-1]) for stretch in stretches]
        asked = [len(stretch.targets) for stretch in stretches]
        call_id = self.served.tokenizer.call_id
        found = score_continuations(self.served.model, sequences, asked, call_id, self.batch_tokens)
        for each in found:
            predicted.check_finite(self.name, each.nats)
        return [Predicted(each.nats, each.confidence, each.likeliest, each.call) for each in found]


class _Writing:
    """Prompts that are answered side by side, each until it meets a stop text."""

    def __init__(self, served: ServedModel, stop: Sequence[str]) -> None:
        self.decoding = served.cascade.decoding()
        self._tokenizer, self._stop = served.tokenizer, [each.encode() for each in stop if each]
        self._text: dict[int, bytes] = {}
        self._tokens: dict[int, int] = {}
        self._written: dict[int, Written] = {}

    def all(self, requests: Sequence[CascadeRequest]) -> list[Written]:
        """The answers in the order of the requests; raises the error of the first that fails."""
        waiting = iter(requests)
        while len(self._written) < len(requests):
            for request in islice(waiting, _WRITTEN_TOGETHER - self.decoding.active):
                number = self.decoding.add(request)
                self._text[number], self._tokens[number] = b"", 0
            for step in self.decoding.step():
                if step.error is not None:
                    raise step.error
                self._take(step)
        return [self._written[number] for number in range(len(requests))]

    def _take(self, step: CascadeStep) -> None:
        number = step.request
        ids = [token.id for token in step.tokens]
        self._text[number] += b"".join(map(self._tokenizer.token_bytes, ids))
        self._tokens[number] += len(ids)
        text = self._text[number]
        ends = [place for place in map(text.find, self._stop) if place >= 0]
        if not ends and step.finish is None:
            return
        summary = step.summary or self.decoding.summary(number)
        kept = text[: min(ends, default=len(text))].decode("utf-8", "replace")
        self._written[number] = Written(kept, self._tokens[number], summary.calls)
        self.decoding.cancel(number)
