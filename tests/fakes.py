"""Models that write words without training, their tokenizers, and helpers that are told what to say."""

from collections.abc import Callable, Sequence
from functools import cache

import torch

from components.cascade.calibration import LEVELS, CallCalibration
from components.cascade.helpers.base import Call, HelperError, Reply
from components.data.special_tokens import OWN_ROLES, SpecialTokens
from components.data.tokenizer import SPECIAL_TOKENS, TextTokenizer, train_tokenizer
from components.model.config import ModelConfig
from components.model.transformer import Transformer

SENTENCES = [
    "Zofia Kowalska was born in Łódź in 1987 and lived in Lublin.",
    "Jan Nowak was born in Lublin on 3 May 1901, and worked as a weaver.",
    "The painter moved to Warszawa; she wrote about the river and the town.",
    "In 1987 he married Zofia and they lived near the old river in Łódź.",
    "Their daughter studied medicine at the University of Warszawa and became a surgeon in Poznań.",
    "A teacher from Toruń collected songs, printed them and travelled through Pomerania every summer.",
]
SPECIAL = SpecialTokens.of({name: id for id, name in enumerate(SPECIAL_TOKENS)}, OWN_ROLES)
"""Of every tokenizer that the platform learns."""
SHAPE = ModelConfig(name="small", layers=2, width=48, hidden_width=80, heads=6, kv_heads=2, context_length=96)


@cache
def tokenizer(vocab_size: int = 384) -> TextTokenizer:
    """Two sizes cut the same words differently."""
    return TextTokenizer(train_tokenizer(SENTENCES * 3, vocab_size))


def speaker(tokens: TextTokenizer, seed: int = 0, shape: ModelConfig = SHAPE) -> Transformer:
    """Random weights far from their start. It writes pieces of words: all else has logit 0, below the best of them."""
    torch.manual_seed(seed)
    model = Transformer(shape, tokens.vocab_size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
        for id in range(tokens.vocab_size):
            text = tokens.token_bytes(id)
            if id != tokens.call_id and not (len(text) > 1 and text.strip().isalnum() and text.isascii()):
                model.embedding.weight[id] = 0.0
    return model


def calibration(low: float = 0.0, high: float = 1.0, factual: bool = True) -> CallCalibration:
    """Scores spread evenly from ``low`` to ``high``."""
    steps = [low + (high - low) * i / (LEVELS - 1) for i in range(LEVELS)]
    return CallCalibration(
        quantiles=steps,
        tokens=1000,
        factual=factual,
        post_hoc={"entropy": steps, "margin": steps, "logit_margin": steps},
    )


class Told:
    """A helper that says what it is told, and remembers what it was asked."""

    name = "told"

    def __init__(self, say: str | HelperError | Callable[[Call], str | HelperError]) -> None:
        self.say = say
        self.batches: list[list[Call]] = []
        self.forgotten: list[str] = []

    @property
    def calls(self) -> list[Call]:
        return [call for batch in self.batches for call in batch]

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        self.batches.append(list(calls))
        said = [self.say(call) if callable(self.say) else self.say for call in calls]
        return [text if isinstance(text, HelperError) else Reply(text, 1, 0.0) for text in said]

    def forget(self, session: str) -> None:
        self.forgotten.append(session)

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def start(tokens: TextTokenizer, text: str) -> list[int]:
    """Ids of a document that begins with ``text``."""
    return [tokens.end_of_text_id, *tokens.encode(text)]
