"""Generation: prefill the prompt, then one cached step a token, sampling by temperature, top-k and top-p.

Two penalties, OpenAI's, work against loops: https://platform.openai.com/docs/guides/text-generation. They change which
token is chosen, greedily too, and no probability that is reported.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from components.core.errors import InputError
from components.data.special_tokens import SpecialTokens
from components.model.ragged import RaggedCache
from components.model.transformer import KeyValueCache, Transformer

# Longest piece of a prompt in one forward pass of several documents, and most tokens of such a pass.
PIECE_TOKENS = 256
PASS_TOKENS = 1024
# A forward pass costs as much as some tokens more in another one (on a CPU about so many), so rows of unlike counts are
# read together as long as the padding stays below it.
PADDING_TOKENS = 24
# Below this temperature the likeliest token is certain in practice, and dividing by less overflows in the end.
GREEDY_BELOW = 1e-5


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens and when to stop."""

    temperature: float = 1.0
    """0 is greedy; values above 1 vary more than the model."""
    top_p: float = 1.0
    """Keep the most probable tokens that together have this probability."""
    top_k: int = 0
    """Keep this many most probable tokens; 0 keeps all."""
    seed: int = 0
    """Same seed, same prompt, same model: same tokens."""
    max_tokens: int = 128
    """Stop after this many."""
    stop_ids: frozenset[int] = field(default_factory=frozenset)
    """Stop after any of these; the stop token itself is still yielded, so that callers know why it ended."""
    suppress_ids: frozenset[int] = field(default_factory=frozenset)
    """Never produced: they are taken out before probabilities are formed."""
    presence_penalty: float = 0.0
    """Taken off the logit of each token that the answer holds already; the prompt does not count."""
    frequency_penalty: float = 0.0
    """The same once for every time that the answer holds the token: in a long answer it also hits common words."""

    def __post_init__(self) -> None:
        bounds = {
            "temperature": (self.temperature, 0.0 <= self.temperature <= 100.0, "between 0 (greedy) and 100"),
            "top_p": (self.top_p, 0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            "top_k": (self.top_k, self.top_k >= 0, "0 (off) or a positive number"),
            "max_tokens": (self.max_tokens, self.max_tokens >= 1, "at least 1"),
            "presence_penalty": (self.presence_penalty, abs(self.presence_penalty) <= 2.0, "between -2 and 2"),
            "frequency_penalty": (self.frequency_penalty, abs(self.frequency_penalty) <= 2.0, "between -2 and 2"),
        }
        for name, (value, allowed, words) in bounds.items():
            if not allowed:
                raise InputError(f"{name} is {value}, it must be {words}")


def text_sampling(special: SpecialTokens, max_tokens: int, *, temperature: float = 0.0, **more: Any) -> Sampling:
    """For text and nothing else: the end of the text ends it, and other special tokens are never written.

    ``more``: further fields of ``Sampling``.
    """
    return Sampling(
        temperature=temperature,
        max_tokens=max_tokens,
        stop_ids=frozenset({special.end_of_text}),
        suppress_ids=special.never_written,
        **more,
    )


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
def generate(
    model: Transformer, prompt_ids: Sequence[int], sampling: Sampling, cache: KeyValueCache | None = None
) -> Iterator[Step]:
    """Continue ``prompt_ids``, yielding each token as it is chosen.

    Arguments:
        model: in evaluation mode, on any device.
        prompt_ids: at least one id; it must leave room for one token in the context.
        sampling: see ``Sampling``. Generation also ends when the context is full.
        cache: holds the first ``cache.length`` tokens of the prompt already (fewer than all); it is extended.

    Raises ``InputError`` for an empty prompt or one that fills the context, when the first token is asked for.
    """
    limit = model.config.context_length
    if not prompt_ids:
        raise InputError("the prompt is empty: give at least one token")
    if len(prompt_ids) >= limit:
        raise InputError(
            f"the prompt has {len(prompt_ids)} tokens, but the context of {limit} must also hold at least one "
            f"generated token: shorten the prompt to {limit - 1} tokens"
        )
    cache = cache if cache is not None else KeyValueCache.for_model(model)
    if cache.length >= len(prompt_ids):
        raise ValueError(f"the cache holds {cache.length} tokens of a prompt of {len(prompt_ids)}; truncate it first")
    device = model.output_weight.device
    generator = torch.Generator().manual_seed(sampling.seed)
    suppressed = torch.tensor(sorted(sampling.suppress_ids), dtype=torch.long)
    pending = list(prompt_ids[cache.length :])
    written = Counter[int]()
    for _ in range(min(sampling.max_tokens, limit - len(prompt_ids))):
        hidden = model(torch.tensor([pending], device=device), cache=cache)
        logits = model.logits(hidden[:, -1:])[0, 0].float().cpu()
        log_probabilities = logits.index_fill_(0, suppressed, float("-inf")).log_softmax(dim=-1)
        token = choose(log_probabilities, sampling, generator, written)
        yield Step(token, log_probabilities[token].item(), log_probabilities)
        if token in sampling.stop_ids:
            return
        pending = [token]
        written[token] += 1


@torch.inference_mode()
def read_rows(
    model: Transformer, cache: RaggedCache, unread: Mapping[int, Sequence[int]]
) -> dict[int, Float[Tensor, "width"]]:
    """Read new tokens into rows of ``cache``, together where that is cheaper; hidden state after each row's last token.

    Arguments:
        unread: new ids of each row, at least one.
    """
    left = {row: list(ids) for row, ids in unread.items()}
    last: dict[int, Tensor] = {}
    while left:
        rows = _pass(left)
        pieces = [left[row][:PIECE_TOKENS] for row in rows]
        counts = [len(piece) for piece in pieces]
        seq = max(counts)
        padded = [piece + [0] * (seq - len(piece)) for piece in pieces]
        hidden = model(torch.tensor(padded, device=model.output_weight.device), cache=cache.extending(rows, counts))
        for at, row in enumerate(rows):
            left[row] = left[row][PIECE_TOKENS:]
            if not left[row]:
                del left[row]
                last[row] = hidden[at, counts[at] - 1]
    return last


def _pass(unread: Mapping[int, Sequence[int]]) -> list[int]:
    """Rows of the next forward pass, ascending: the one with most to read, and those that cost little beside it."""
    first, *others = sorted(unread, key=lambda row: (-len(unread[row]), row))
    longest = min(len(unread[first]), PIECE_TOKENS)
    rows, padding = [first], 0
    for row in others:
        padding += longest - min(len(unread[row]), PIECE_TOKENS)
        if padding > PADDING_TOKENS or (len(rows) + 1) * longest > PASS_TOKENS:
            break
        rows.append(row)
    return sorted(rows)


def choose(
    log_probabilities: Float[Tensor, "vocab"],
    sampling: Sampling,
    generator: torch.Generator,
    written: Mapping[int, int],
) -> int:
    """Draw one token id: penalties first, then temperature, the top k, and the smallest set that reaches top p.

    ``written``: the tokens of the answer so far, and how often it holds each.
    """
    log_probabilities = _penalised(log_probabilities, sampling, written)
    if sampling.temperature < GREEDY_BELOW:
        return int(log_probabilities.argmax())
    scores, ids = (log_probabilities / sampling.temperature).sort(descending=True, stable=True)
    probabilities = scores.softmax(dim=-1)
    if sampling.top_k:
        probabilities[sampling.top_k :] = 0.0
        probabilities /= probabilities.sum()
    before = probabilities.cumsum(dim=-1) - probabilities  # what the more probable tokens have together
    probabilities[before >= sampling.top_p] = 0.0
    probabilities[0] = probabilities[0].clamp_min(torch.finfo(probabilities.dtype).tiny)  # never an empty set
    return int(ids[torch.multinomial(probabilities, 1, generator=generator)])


def _penalised(
    log_probabilities: Float[Tensor, "vocab"], sampling: Sampling, written: Mapping[int, int]
) -> Float[Tensor, "vocab"]:
    presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
    if not written or not (presence or frequency):
        return log_probabilities
    penalties = log_probabilities.new_tensor([presence + frequency * count for count in written.values()])
    return log_probabilities.index_add(0, torch.tensor(list(written)), penalties, alpha=-1)
