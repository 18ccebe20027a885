"""Answers that are JSON of a given schema: at every step only tokens are left with which it can still become that.

``llguidance`` keeps the state of the grammar byte by byte and says which tokens may come next. Between the parts of the
JSON there is no white space: a small model would fill the answer with it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from torch import Tensor

from components.core.errors import InputError, ServiceError
from components.data.tokenizer import TextTokenizer

# What a person writes has a tenth of it. The library's parser is recursive, and its limits are on grammars.
MOST_CHARACTERS = 65_536
MOST_LEVELS = 64
# A schema may carry options for the library; these stand above them.
_OPTIONS: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,
    "coerce_one_of": False,
}
_NOT_TEXT = b"\xff"  # the library's mark of a token that no grammar of text reaches


class SchemaError(InputError):
    """A schema that is none, that nothing satisfies or that cannot be followed."""


class JsonGuide:
    """The state of one answer. For one thread."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size
        self._read: list[int] = []

    def another(self) -> "JsonGuide":
        """The same schema for another answer that has not begun."""
        matcher = self._matcher.deep_copy()
        matcher.reset()
        return JsonGuide(matcher, self._vocab_size)

    def allow(self, written: Sequence[int], logits: Float[Tensor, "vocab"]) -> None:
        """Set the logits of all tokens to -inf that cannot follow ``written``."""
        logits.numpy()[~self.allowed(written)] = -np.inf

    def accepts(self, written: Sequence[int], ids: Sequence[int]) -> bool:
        """Whether all of ``ids`` can follow ``written``."""
        self._follow(written)
        return bool(self._matcher.validate_tokens(list(ids)) == len(ids))

    def allowed(self, written: Sequence[int]) -> Bool[np.ndarray, "vocab"]:
        """Which tokens can follow ``written``."""
        self._follow(written)
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(packed, count=self._vocab_size, bitorder="little").view(np.bool_)
        if self._matcher.is_error() or not allowed.any():
            raise ServiceError("the grammar of an answer has come to no end: its schema is too complex")
        return allowed

    def _follow(self, written: Sequence[int]) -> None:
        """Bring the state to the end of ``written``, of which the last tokens may have been taken back."""
        common = len(self._read)
        if list(written[:common]) != self._read:
            pairs = zip(self._read, written, strict=False)
            common = next((at for at, (old, new) in enumerate(pairs) if old != new), min(common, len(written)))
            self._matcher.rollback(len(self._read) - common)
        new = list(written[common:])
        if new and not self._matcher.consume_tokens(new):
            raise ServiceError("an answer has left its grammar")
        self._read = list(written)


class Grammars:
    """Makes guides for one tokenizer. Thread-safe."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._text = tokenizer

    def guide(self, schema: Mapping[str, Any]) -> JsonGuide:
        """For answers of ``schema``; raises ``SchemaError`` that names what is wrong with it."""
        try:
            text = json.dumps(schema)
        except RecursionError as error:
            raise SchemaError(f"the schema is nested too deeply; at most {MOST_LEVELS} levels are read") from error
        if len(text) > MOST_CHARACTERS:
            raise SchemaError(f"the schema has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read")
        if (levels := _levels(schema)) > MOST_LEVELS:
            raise SchemaError(f"the schema is nested {levels} levels deep; at most {MOST_LEVELS} are read")
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=_OPTIONS)  # type: ignore[arg-type]
        except ValueError as error:  # half a surrogate pair
            raise SchemaError(f"the schema cannot be read: {error}") from error
        failed, said = LLMatcher.validate_grammar_with_warnings(grammar, self._tokens, limits=_limits())
        if failed or said:
            raise SchemaError(f"the schema cannot be followed: {' '.join('; '.join(said).split())}")
        matcher = LLMatcher(self._tokens, grammar, log_level=0, limits=_limits())
        if matcher.is_error():
            raise SchemaError(f"the schema cannot be followed: {matcher.get_error()}")
        guide = JsonGuide(matcher, self._text.vocab_size)
        try:
            guide.allowed(())
        except ServiceError as error:
            raise SchemaError("the schema cannot be followed: nothing satisfies it, or it is too complex") from error
        return guide

    @cached_property
    def _tokens(self) -> LLTokenizer:
        """Takes a fifth of a second for 50,000 tokens, so it is made for the first request that needs it."""
        ends = sorted({self._text.end_of_text_id, self._text.im_end_id})
        return LLTokenizer(TokenizerWrapper(_Vocabulary(self._text)), n_vocab=self._text.vocab_size, eos_token=ends)


class _Vocabulary:
    """A tokenizer in the words of the library."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.end_of_text_id
        self.bos_token_id = None
        raw = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
        self.tokens = [text or _NOT_TEXT + f"<{id}>".encode() for id, text in enumerate(raw)]
        self.special_token_ids = [id for id, text in enumerate(raw) if not text]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def _limits() -> LLParserLimits:
    return LLParserLimits(verbose_errors=False)  # an error must not quote the answer


def _levels(schema: object) -> int:
    """How deep ``schema`` is nested, without recursion."""
    levels, layer = 0, [schema]
    while layer:
        levels += 1
        layer = [inner for value in layer for inner in _parts(value)]
    return levels


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list) else ()
