"""Can this server run the cascade? Asked once, before any client is answered."""

from components.data.special_tokens import CALL
from components.data.tokenizer import TextTokenizer
from components.deployment.gateway.upstream import (
    ALWAYS,
    SUPPRESSED,
    OpenAIStyle,
    RefusedError,
    UnusableUpstreamError,
    Upstream,
)

# Words, case, digits, punctuation, two scripts beside Latin, an emoji and white space: tokenizers differ in these.
_TEXT = "The river's 1902 bridge — “Größe” 東京 🙂,\n  twice."
_WRITTEN_TOKENS = 4


def check_upstream(upstream: Upstream, tokenizer: TextTokenizer, url: str) -> None:
    """Raise ``UnusableUpstreamError``, with what to do, unless the server runs a model with this tokenizer, follows a
    logit bias or our plugin's threshold, stops at ``<CALL>`` and tells that it did.
    """
    expected, read = tokenizer.encode(_TEXT), upstream.ids(_TEXT)
    if read is not None and read != expected:
        raise UnusableUpstreamError(
            url, f"it reads text as other tokens than this model ({_difference(read, expected)})", _OTHER_MODEL
        )
    prompt = [tokenizer.end_of_text_id, *expected]
    if isinstance(upstream, OpenAIStyle):
        upstream.try_threshold(prompt)
    try:
        always = upstream.write(prompt, 1, ALWAYS)
    except RefusedError as error:
        raise UnusableUpstreamError(url, error.reason) from error
    if always.end != "call":
        if always.ids == (tokenizer.call_id,):
            raise UnusableUpstreamError(url, f"it wrote {CALL} and did not stop there or does not tell that it did")
        raise UnusableUpstreamError(
            url, f"it does not follow logit_bias: with the largest bias on {CALL} it wrote token {list(always.ids)}"
        )
    never = upstream.write(prompt, _WRITTEN_TOKENS, SUPPRESSED)
    if never.end == "call" or tokenizer.call_id in never.ids:
        raise UnusableUpstreamError(
            url, f"it does not follow logit_bias: with the smallest bias on {CALL} it wrote {CALL}"
        )
    # Without an endpoint that reads text, how it spells what it wrote; servers differ in parts of characters.
    ours, theirs = (text.replace("\ufffd", "") for text in (tokenizer.decode(never.ids), never.text))
    if read is None and ours != theirs:
        raise UnusableUpstreamError(url, f"it spells its tokens {theirs!r}, this model {ours!r}", _OTHER_MODEL)


_OTHER_MODEL = (
    "Let it run the files that `lacewing export` writes of this very model: format=gguf for llama.cpp, "
    "format=huggingface for vLLM and SGLang"
)


def _difference(read: list[int], expected: list[int]) -> str:
    pairs = enumerate(zip(read, expected, strict=False))
    at = next((place for place, (theirs, ours) in pairs if theirs != ours), min(len(read), len(expected)))
    return f"from the token {at} on: {read[at : at + 3]}, not {expected[at : at + 3]}"
