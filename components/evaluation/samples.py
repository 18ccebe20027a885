"""A few continuations of held-out documents: metrics say how good a model is, samples show what that means."""

import re
from collections.abc import Callable, Sequence

from components.data.tokenizer import TextTokenizer
from components.evaluation.config import SamplesConfig
from components.evaluation.results import Sample
from components.model.decoder import Decoder
from components.model.sampling import text_sampling
from components.model.transformer import Transformer


def continue_documents(
    model: Transformer,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    cfg: SamplesConfig,
    report: Callable[[float], None] = lambda fraction: None,
) -> list[Sample]:
    """Continue the first words of each text, as a document of its own; special tokens end or are suppressed."""
    sampling = text_sampling(
        tokenizer.special, cfg.max_tokens, temperature=cfg.temperature, top_p=cfg.top_p, seed=cfg.seed
    )
    decoder, samples = Decoder(model), []
    for number, text in enumerate(texts, start=1):
        prompt = _first_words(text, cfg.prompt_words)
        # Words can be many tokens each; half the context stays for the continuation.
        ids = tokenizer.encode(prompt)[: model.config.context_length // 2]
        prompt = tokenizer.decode(ids)
        row = decoder.add([tokenizer.end_of_text_id, *ids], sampling)
        while row.finish is None:
            decoder.step()
        written = row.ids[row.prompt_tokens :]
        rest = tokenizer.encode(text[len(prompt) :])[: cfg.max_tokens]
        samples.append(Sample(prompt=prompt, continuation=tokenizer.decode(written), original=tokenizer.decode(rest)))
        report(number / len(texts))
    return samples


def _first_words(text: str, count: int) -> str:
    match = re.match(r"\s*(?:\S+\s+){0,%d}\S+" % (count - 1), text)  # noqa: UP031 - braces are the pattern's own
    return match[0] if match else ""
