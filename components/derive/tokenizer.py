"""A tokenizer that came with weights, made to keep the promises that ours keeps; then it gets the reserved tokens.

The platform relies on two: decoding gives back exactly the text that was encoded, and no token crosses from a word to
the space before the next. So SentencePiece's space in front of a text goes (who wants it writes it), and so do tokens
that are put around a text. Whether the promises are kept, and whether all words but the first have the ids that they
had, is tried on texts and not guessed from the names of parts.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer

from components.core.errors import ArtifactError
from components.data.encoder import Encoder
from components.data.special_tokens import CALL, IM_END, IM_START, PADDING
from components.data.tokenizer import SPACE, TextTokenizer

_CROSSES = re.compile(r"\S ")
_TRIED = (
    "Once upon a time, in 1984, they'd paid £3.50 for   two  loaves.\n\n\tAnd then?  ",
    " Żółć, naïve, Ελλάδα, Москва, 北京市, देवनागरी, ᚠᛇᚻ, 👩‍🚀🇵🇱 ",
    "x=f(a)[0]; // don't\r\nfoo_bar+=1e-5\x07 \u00a0\u200b\u2028 ﬁ Å ...",
    "",
    " ",
    "\n",
)


def adapted(record: Mapping[str, Any], end: str, padding: str | None) -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer of a ``tokenizer.json`` with the reserved tokens behind its own, and which of them play which role.

    Arguments:
        end: its token that ends a text.
        padding: its token that pads; ``None``: it gets one.

    Raises ``ArtifactError`` if it cannot be read.
    """
    tokenizer = _read({**_without_prefix(dict(record)), "post_processor": None, "truncation": None, "padding": None})
    roles = {"eos_token": end, "pad_token": padding or PADDING}
    for name in (end, roles["pad_token"], IM_START, IM_END, CALL):
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False)])
    return tokenizer, roles


def size(tokenizer: Tokenizer) -> int:
    """Number of ids, from 0 to the largest."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def check_same_ids(record: Mapping[str, Any], adapted: TextTokenizer, source: object) -> int:
    """The number of ids of the tokenizer of a ``tokenizer.json`` as it came.

    Raises ``ArtifactError`` if it gave a text, from its second word on, other ids than ``adapted`` gives.
    """
    given = _read(record)
    given.encode_special_tokens = True  # the library's name for "encode them like any text"
    for text in _TRIED:
        before, now = given.encode(f" {text}", add_special_tokens=False).ids, adapted.encode(f" {text}")[1:]
        if now and before[-len(now) :] != now:
            raise ArtifactError(
                f"{source}: its tokenizer puts spaces into {text!r}, not only before it; it cannot be used"
            )
    return size(given)


def check_promises(tokenizer: TextTokenizer, source: object) -> None:
    """Raise ``ArtifactError`` with the text, or the token, by which ``tokenizer`` breaks a promise."""
    spelled = [tokenizer.token_bytes(id).decode(errors="replace") for id in range(tokenizer.vocab_size)]
    if crossing := next((token for token in spelled if _CROSSES.search(token)), None):
        raise ArtifactError(
            f"{source}: its token {crossing!r} spans a word and the space behind it; that cannot be used"
        )
    encoder = Encoder(tokenizer)
    for text in _TRIED:
        ids = tokenizer.encode(text)
        if (back := tokenizer.decode(ids)) != text:
            raise ArtifactError(
                f"{source}: its tokenizer makes {back!r} of {text!r}; only one that gives back every text can be used"
            )
        if encoder.encode([text])[0].tolist() != ids:
            raise ArtifactError(f"{source}: its tokenizer splits the words of {text!r} by what stands around them")


def _read(record: Mapping[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(record))
    except Exception as error:  # the library raises bare Exception
        raise ArtifactError(f"the given tokenizer.json cannot be read: {error}") from error


def _without_prefix(part: Any) -> Any:
    """A part of ``tokenizer.json`` that puts no space in front of a text, and takes none away when it decodes."""
    if isinstance(part, list):
        return [_without_prefix(each) for each in part if not _is_prefix(each)]
    if not isinstance(part, dict):
        return part
    kept = {
        name: value if name in ("model", "added_tokens") else _without_prefix(value) for name, value in part.items()
    }
    if kept.get("type") == "Metaspace":
        return {**kept, "prepend_scheme": "never"}
    if kept.get("type") == "ByteLevel":
        return {**kept, "add_prefix_space": False}
    return None if _is_prefix(kept) else kept


def _is_prefix(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    puts = part.get("type") == "Prepend" and part.get("prepend") == SPACE
    takes = part.get("type") == "Strip" and part.get("content") == " "
    return puts or takes
