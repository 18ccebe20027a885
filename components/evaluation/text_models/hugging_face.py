"""Any folder of Hugging Face's Llama family as a ``TextModel``, offline and without foreign code.

Batches have shapes that follow from the length of a text alone, so that a result does not depend on what else is asked.
Whether a start token stands before a context is up to the folder's tokenizer, as in lm-evaluation-harness.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.evaluation.autocast import scoring_device
from components.evaluation.text_models import predicted
from components.evaluation.text_models.base import GREEDY, Continuation, Draw, Likelihood, TokenScores, Written
from components.evaluation.text_models.predicted import Predicted, Stretch
from components.evaluation.text_models.requests import encoded
from components.model.families.hugging_face import HuggingFaceModel, empty_cache, load_hugging_face
from components.model.generate import Sampling, choose

# Lengths are rounded up to this, and so many tokens are read at once; both are part of the result's last bits.
_LENGTH_MULTIPLE = 32
_PASS_TOKENS = 2048
_WRITTEN_TOGETHER = 16


@dataclass
class HuggingFaceText:
    """A ``TextModel`` over a network of transformers."""

    name: str
    identity: str
    network: HuggingFaceModel

    @classmethod
    def of_folder(cls, folder: Path, name: str, identity: str, device: str = "auto") -> Self:
        """Raises ``ArtifactError`` for a folder that is damaged or holds another architecture."""
        return cls(name, identity, load_hugging_face(folder, scoring_device(device)))

    @property
    def context_length(self) -> int:
        return self.network.context_length

    def close(self) -> None:
        """Nothing is held but memory."""

    def token_scores(self, texts: Sequence[str]) -> list[TokenScores]:
        encodings = self.network.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return predicted.token_scores(
            self._predicted,
            [encoding.ids for encoding in encodings],
            [_sizes(text, encoding.offsets) for text, encoding in zip(texts, encodings, strict=True)],
            self.network.start_id,
            self.context_length,
        )

    def likelihoods(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        starts_texts = self.network.encode("a")[0] == self.network.start_id
        tokens = encoded(requests, self._encode, self.network.start_id, starts_texts)
        return predicted.likelihoods(self._predicted, tokens, self.context_length)

    def write(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        stop: Sequence[str] = (),
        presence_penalty: float = 0.0,
        draw: Draw = GREEDY,
    ) -> list[Written]:
        room = max(1, self.context_length - max_tokens)
        ids = [self.network.encode(prompt)[-room:] for prompt in prompts]
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for number, each in enumerate(ids):
            by_length[len(each)].append(number)
        written: dict[int, Written] = {}
        for members in by_length.values():  # prompts of one length need no padding
            for start in range(0, len(members), _WRITTEN_TOGETHER):
                together = members[start : start + _WRITTEN_TOGETHER]
                drawers = [_Drawer(draw, number) for number in together]
                answers = self._write([ids[number] for number in together], max_tokens, stop, presence_penalty, drawers)
                written |= zip(together, answers, strict=True)
        return [written[number] for number in range(len(prompts))]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self.network.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _predicted(self, stretches: Sequence[Stretch]) -> list[Predicted]:
        rows: dict[tuple[int, ...], list[int]] = {}  # continuations of one token share their inputs
        for number, stretch in enumerate(stretches):
            rows.setdefault(stretch.inputs, []).append(number)
        by_length: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)
        for inputs in rows:
            by_length[-(-len(inputs) // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE].append(inputs)
        done: dict[int, Predicted] = {}
        for length, texts in by_length.items():
            count = max(1, _PASS_TOKENS // length)
            for start in range(0, len(texts), count):
                members = texts[start : start + count]
                hidden = self._hidden(members, (count, length))
                numbers = [(row, number) for row, inputs in enumerate(members) for number in rows[inputs]]
                done |= self._read(hidden, numbers, stretches)
        return [done[number] for number in range(len(stretches))]

    @torch.inference_mode()
    def _hidden(self, texts: Sequence[tuple[int, ...]], shape: tuple[int, int]) -> Float[Tensor, "rows tokens width"]:
        """Attention is causal, so the padding behind a text has no effect on it."""
        inputs = np.full(shape, self.network.start_id, dtype=np.int64)
        for row, ids in enumerate(texts):
            inputs[row, : len(ids)] = ids
        model = self.network.model
        hidden: Tensor = model.base_model(torch.from_numpy(inputs).to(model.device), use_cache=False).last_hidden_state
        return hidden

    @torch.inference_mode()
    def _read(
        self, hidden: Float[Tensor, "rows tokens width"], numbers: Sequence[tuple[int, int]], asked: Sequence[Stretch]
    ) -> dict[int, Predicted]:
        stretches = [asked[number] for _, number in numbers]
        wanted = [
            hidden[row, stretch.first : len(stretch.inputs)]
            for (row, _), stretch in zip(numbers, stretches, strict=True)
        ]
        targets = [id for stretch in stretches for id in stretch.targets]
        weight: Tensor = self.network.model.get_output_embeddings().weight
        said = predicted.predictions(self.name, torch.cat(wanted), weight, targets)
        return dict(zip((number for _, number in numbers), said.cut(stretches), strict=True))

    @torch.inference_mode()
    def _write(
        self,
        prompts: Sequence[list[int]],
        max_tokens: int,
        stop: Sequence[str],
        presence_penalty: float,
        drawers: Sequence["_Drawer"],
    ) -> list[Written]:
        """Continuations of prompts of one length."""
        model, cache = self.network.model, empty_cache()
        pending = torch.tensor(prompts, device=model.device)
        answers = [_Answer(self.network, prompt, stop) for prompt in prompts]
        seen: Any = None
        for _ in range(min(max_tokens, self.context_length - len(prompts[0]))):
            logits = model(pending, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
            seen = torch.zeros_like(logits) if seen is None else seen
            logits[:, sorted(self.network.silent_ids)] = float("-inf")
            scores = (logits - presence_penalty * seen).cpu()
            drawn = [drawer.take(row) for drawer, row in zip(drawers, scores, strict=True)]
            pending = torch.tensor(drawn, device=model.device)[:, None]
            seen.scatter_(1, pending, 1.0)
            for answer, id in zip(answers, pending[:, 0].tolist(), strict=True):
                answer.take(id)
            if all(answer.ended for answer in answers):
                break
        return [answer.written for answer in answers]


class _Drawer:
    """Chooses the tokens of one prompt, independently of those of the others."""

    def __init__(self, draw: Draw, number: int) -> None:
        self._sampling = Sampling(draw.temperature, draw.top_p)
        self._generator = torch.Generator().manual_seed(draw.seed + number)

    def take(self, logits: Float[Tensor, "vocab"]) -> int:
        """The next token."""
        return choose(logits.log_softmax(dim=-1), self._sampling, self._generator, {})


class _Answer:
    """What follows one prompt."""

    def __init__(self, network: HuggingFaceModel, prompt: list[int], stop: Sequence[str]) -> None:
        self._network, self._prompt, self._stop = network, prompt, [each for each in stop if each]
        self._ids: list[int] = []
        self._text = ""
        self.ended = False

    def take(self, id: int) -> None:
        """One token more, unless it has ended."""
        if self.ended:
            return
        if id in self._network.end_ids:
            self.ended = True
            return
        self._ids.append(id)
        self._text = self._network.continuation(self._prompt, self._ids)
        ends = [place for place in map(self._text.find, self._stop) if place >= 0]
        if ends:
            self._text, self.ended = self._text[: min(ends)], True

    @property
    def written(self) -> Written:
        return Written(self._text, len(self._ids))


def _sizes(text: str, offsets: Sequence[tuple[int, int]]) -> Int[np.ndarray, " tokens"]:
    """Bytes of each token by its place in the text.

    A character that is spelled in several tokens counts for the first of them, and what a tokenizer leaves out for the
    next; so they add up to the text.
    """
    place = np.concatenate(([0], np.cumsum([len(character.encode()) for character in text]))).astype(np.int64)
    ends = np.maximum.accumulate(place[np.array([end for _, end in offsets], dtype=np.int64)])
    if len(ends):
        ends[-1] = place[-1]
    return np.diff(ends, prepend=0)
