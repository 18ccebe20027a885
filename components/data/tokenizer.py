"""The tokenizer: byte-level BPE whose ids llama.cpp and transformers reproduce exactly.

Text is split with the regular expression of Llama 3 (llama.cpp calls it ``llama-bpe``), mapped byte by byte to
printable characters (GPT-2's ``ByteLevel``) and merged. There is no normaliser and no start-of-text token, so decoding
returns exactly the text that was encoded. Documents are separated by ``<|endoftext|>``.

A tokenizer that came with somebody's weights may also be one derived from SentencePiece, which writes a space as ``▁``
and the bytes of a missing character as tokens of their own (``components/derive/tokenizer.py`` makes it fit in).

Special tokens belong to the platform, never to text: where a document or a user spells ``<CALL>``, that is six ordinary
characters. Their ids come from the tokenizer's record (``special_tokens.py``), so a tokenizer that was not learned here
may have them anywhere.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from components.core.atomic import replacing, write_json, write_text
from components.core.errors import ArtifactError, InputError
from components.core.identity import digest_file
from components.data.config import SMALLEST_VOCABULARY, VOCABULARY_MULTIPLE
from components.data.special_tokens import (
    CALL,
    CHAT_TEMPLATE_FILE,
    END_OF_TEXT,
    IM_END,
    IM_START,
    OWN_ROLES,
    PADDING,
    TOKENIZER,
    TOKENIZER_CONFIG,
    SpecialTokens,
    read_record,
)

SPACE = "▁"
"""How SentencePiece spells a space."""
SPECIAL_TOKENS = (END_OF_TEXT, PADDING, IM_START, IM_END, CALL)
"""Of the tokenizers that are learned here."""

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # English contractions
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # a word with the space or sign before it
    r"|\p{N}{1,3}"  # digits, three at most
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # punctuation
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"  # line ends; spaces, all but the last one before a word
)

# Learning takes time quadratic in the length of a word: 15 s for one of 100,000 letters. No useful token is as long as
# this. So a longer word is cut, and of a longer run of ASCII without a space (base64, hexadecimal) only the beginning
# counts. Both are for learning only: encoding takes linear time, and the saved tokenizer splits text as it always did.
LONGEST_WORD_LEARNT = 512
_LONG_RUN = re.compile(rf"(?<![!-~])([!-~]{{{LONGEST_WORD_LEARNT}}})[!-~]+")

# ChatML. ``{% generation %}`` marks what the assistant wrote: trainers that mask the prompt look for it.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}"
    "{{ message['content'] + '<|im_end|>' }}"
    "{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer_digest(folder: Path) -> str:
    """Identity of the tokenizer saved in ``folder``; raises ``ArtifactError`` if there is none."""
    path = folder / TOKENIZER
    if not path.is_file():
        raise ArtifactError(f"{folder} holds no {TOKENIZER}; give the tokenizer folder of a prepare artifact")
    return digest_file(path)


def check_vocab_size(vocab_size: int) -> None:
    """Raise ``InputError`` unless ``vocab_size`` is a multiple of 64 that holds every byte and special token."""
    if vocab_size < SMALLEST_VOCABULARY or vocab_size % VOCABULARY_MULTIPLE:
        raise InputError(
            f"a vocabulary of {vocab_size} tokens cannot be made: allowed are multiples of {VOCABULARY_MULTIPLE} from "
            f"{SMALLEST_VOCABULARY} (256 bytes and {len(SPECIAL_TOKENS)} special tokens must fit)"
        )


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, min_frequency: int = 2, show_progress: bool = False
) -> Tokenizer:
    """Learn a byte-level BPE of exactly ``vocab_size`` tokens, specials included, from ``texts``.

    Raises ``InputError`` if ``vocab_size`` is not allowed or if ``texts`` hold too few pairs that occur at least
    ``min_frequency`` times.
    """
    check_vocab_size(vocab_size)
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    short = pre_tokenizers.FixedLength(LONGEST_WORD_LEARNT)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, short, in_bytes])  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        show_progress=show_progress,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator((_LONG_RUN.sub(r"\1", text) for text in texts), trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, in_bytes])  # type: ignore[assignment]
    supported = tokenizer.get_vocab_size()
    if supported < vocab_size:
        usable = supported - supported % VOCABULARY_MULTIPLE
        raise InputError(
            f"the text is too small for a vocabulary of {vocab_size}: it supports {supported} tokens. "
            + (
                f"Set data.vocab_size={usable} or less"
                if usable >= SMALLEST_VOCABULARY
                else "Give at least a few pages"
            )
            + ", or add text."
        )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, roles: Mapping[str, str] = OWN_ROLES) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja`` to ``folder``.

    ``roles``: the tokens that are ``eos_token`` and ``pad_token``.

    transformers 5 would write class and key names that transformers 4.57 and other readers do not know, so the
    configuration is spelled here in the older terms, which both accept.
    """
    special = SpecialTokens.of(special_ids(tokenizer), roles)
    with replacing(folder / TOKENIZER) as temporary:
        tokenizer.save(str(temporary))
    write_json(
        folder / TOKENIZER_CONFIG,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            **roles,
            "additional_special_tokens": [name for name in special.ids if name not in roles.values()],
            "clean_up_tokenization_spaces": False,
            "added_tokens_decoder": {
                str(id): {
                    "content": token,
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": False,
                    "single_word": False,
                    "special": True,
                }
                for token, id in special.ids.items()
            },
            "chat_template": CHAT_TEMPLATE,
        },
    )
    write_text(folder / CHAT_TEMPLATE_FILE, CHAT_TEMPLATE)


class TextTokenizer:
    """Text to ids and back. Ids are ``int`` in ``[0, vocab_size)``."""

    def __init__(self, tokenizer: Tokenizer, roles: Mapping[str, Any] = OWN_ROLES, source: object = "the tokenizer"):
        """
        Arguments:
            roles: ``eos_token`` and ``pad_token``, as in ``tokenizer_config.json``.
            source: where the tokenizer is from, for errors.
        """
        tokenizer.encode_special_tokens = True  # the library's name for "encode them like any text"
        self._tokenizer = tokenizer
        self._source = source
        self.vocab_size: int = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        self.special = SpecialTokens.of(special_ids(tokenizer), roles, source)
        self.end_of_text_id = self.special.end_of_text
        self.padding_id = self.special.padding
        self.im_start_id = self.special.im_start
        self.im_end_id = self.special.im_end
        self.call_id = self.special.call

    @classmethod
    def load(cls, folder: Path) -> "TextTokenizer":
        """Read the tokenizer in ``folder``.

        Raises ``ArtifactError`` if a file of it is missing or damaged, or if it lacks a special token.
        """
        path = folder / TOKENIZER
        read_record(path)
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ArtifactError(f"{path} cannot be read as a tokenizer: {error}") from error
        return cls(tokenizer, read_record(folder / TOKENIZER_CONFIG), path)

    @property
    def writes_spaces_as_signs(self) -> bool:
        """Whether it derives from SentencePiece: a ``▁`` in a text then means a space, and comes back as one."""
        return bool(getattr(self._tokenizer.model, "byte_fallback", False))

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; a special token spelled in it is plain text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, computed on all cores that ``RAYON_NUM_THREADS`` allows."""
        # The fast variant leaves out character offsets, which are not needed.
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_pieces(self, pieces: Sequence[str], group: int = 4096) -> list[int]:
        """Ids of all ``pieces``, one after another; no token crosses from one piece to the next.

        An encoding object per piece would cost as much as the encoding itself, so ``group`` pieces share one, as if
        they were the words of a sentence.
        """
        sentences = [list(pieces[start : start + group]) for start in range(0, len(pieces), group)]
        encodings = self._tokenizer.encode_batch_fast(sentences, is_pretokenized=True, add_special_tokens=False)
        return [id for encoding in encodings for id in encoding.ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``; special tokens are skipped, bytes that are not valid UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """Raw bytes of one token, ``b""`` for special tokens: what incremental detokenisation joins."""
        return self._bytes[id]

    def encode_chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> list[int]:
        """Ids of ChatML ``messages`` (each with ``role`` and ``content``), equal to the chat template's rendering.

        Contents are plain text: a user who types ``<|im_end|>`` does not end the turn.
        """
        newline = self.encode("\n")
        ids: list[int] = []
        for message in messages:
            ids.append(self.im_start_id)
            ids += self.encode(f"{message['role']}\n{message['content']}")
            ids += [self.im_end_id, *newline]
        if add_generation_prompt:
            ids += [self.im_start_id, *self.encode("assistant\n")]
        return ids

    @cached_property
    def _bytes(self) -> list[bytes]:
        spelled = _sentencepiece_bytes if self.writes_spaces_as_signs else _byte_level_bytes
        added = {id for id, token in self._tokenizer.get_added_tokens_decoder().items()}
        raw = [b""] * self.vocab_size
        for token, id in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if token in self.special.ids:
                continue
            try:
                raw[id] = token.encode() if id in added else spelled(token)
            except KeyError as error:
                raise ArtifactError(
                    f"{self._source} cannot be used: its token {token!r} is not spelled in bytes; give a byte-level BPE"
                ) from error
        return raw


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Id of every special token by its name."""
    return {token.content: id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def _byte_level_bytes(token: str) -> bytes:
    return bytes(_BYTE_OF[character] for character in token)


def _sentencepiece_bytes(token: str) -> bytes:
    if byte := _BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(byte[1])
    return token.replace(SPACE, " ").encode()


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte 0..255 in GPT-2's byte-level alphabet.

    Bytes that print in Latin-1 stand for themselves; the others take the code points from 256 on, in order.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


_BYTE_OF = {character: byte for byte, character in enumerate(_byte_characters())}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
