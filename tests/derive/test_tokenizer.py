"""Tokenizers that came with weights: what is taken off them, and what they must promise."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from components.core.errors import ArtifactError
from components.data.encoder import Encoder
from components.data.tokenizer import TextTokenizer
from components.derive.tokenizer import adapted, check_promises, check_same_ids
from tests.fakes import SENTENCES
from tests.hugging_face_folders import byte_level, sentencepiece_like

GPT2 = Path(__file__).resolve().parents[3] / "shared/data/models/gpt2_bpe"


def metaspace() -> Tokenizer:
    """As Mistral's: the space in front comes from the pre-tokenizer."""
    record = json.loads(sentencepiece_like().to_str())
    record["normalizer"] = None
    record["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    return Tokenizer.from_str(json.dumps(record))


def digits_apart(prefix: bool = False) -> Tokenizer:
    """As SmolLM2's: every digit alone."""
    tokens = byte_level()
    tokens.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=prefix)]
    )
    return tokens


def spaced() -> Tokenizer:
    """As RoBERTa's: a space in front of the text."""
    tokens = byte_level()
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokens


def _ours(tokens: Tokenizer, end: str) -> TextTokenizer:
    return TextTokenizer(*adapted(json.loads(tokens.to_str()), end, None))


KINDS: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "sentencepiece": (sentencepiece_like, "</s>"),
    "metaspace": (metaspace, "</s>"),
    "byte level": (byte_level, "<|end|>"),
    "byte level, spaced": (spaced, "<|end|>"),
    "digits apart": (digits_apart, "<|end|>"),
}
OURS = {name: _ours(make(), end) for name, (make, end) in KINDS.items()}


@pytest.mark.parametrize("name", OURS)
@settings(max_examples=40, deadline=None)
@given(text=st.one_of(st.text(max_size=60), st.lists(st.sampled_from([*SENTENCES, " ", "\n", "7", "▁"])).map("".join)))
def test_every_text_comes_back_and_pieces_are_encoded_as_the_whole(name: str, text: str) -> None:
    tokenizer = OURS[name]
    ids = tokenizer.encode(text)
    spaces = text.replace("▁", " ") if tokenizer.writes_spaces_as_signs else text
    assert tokenizer.decode(ids) == spaces
    assert Encoder(tokenizer).encode([text])[0].tolist() == ids


@pytest.mark.parametrize("name", OURS)
def test_with_a_space_in_front_a_text_has_the_ids_that_it_had_before(name: str) -> None:
    before = KINDS[name][0]()
    given = SENTENCES[0] if name != "byte level" else f" {SENTENCES[0]}"
    ids = before.encode(given if name != "digits apart" else f" {given}", add_special_tokens=False).ids
    assert OURS[name].encode(f" {SENTENCES[0]}") == ids
    check_same_ids(json.loads(before.to_str()), OURS[name], "the folder")


def test_a_tokenizer_that_puts_spaces_within_a_text_is_refused() -> None:
    given = digits_apart(prefix=True)
    with pytest.raises(ArtifactError, match="puts spaces into"):
        check_same_ids(json.loads(given.to_str()), _ours(given, "<|end|>"), "the folder")


def test_a_special_token_spelled_in_a_text_is_text() -> None:
    for tokenizer in OURS.values():
        ids = tokenizer.encode("a</s><CALL><|end|>")
        assert not set(ids) & set(tokenizer.special.ids.values())


@pytest.mark.skipif(not GPT2.is_dir(), reason="needs the data that lies beside the project")
def test_the_tokenizer_of_gpt_2_keeps_its_promises_and_its_ids() -> None:
    tokens = Tokenizer(models.BPE.from_file(str(GPT2 / "encoder.json"), str(GPT2 / "vocab.bpe")))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens(["<|endoftext|>"])
    record = json.loads(tokens.to_str())
    ours = TextTokenizer(*adapted(record, "<|endoftext|>", None))
    check_promises(ours, "gpt2")
    assert ours.encode("Hello world, it's 1984") == [15496, 995, 11, 340, 338, 12844]
    assert ours.end_of_text_id == 50256
    assert (check_same_ids(record, ours, "gpt2"), ours.vocab_size) == (50257, 50261)


def _lowercase() -> Tokenizer:
    tokens = byte_level()
    tokens.normalizer = normalizers.Lowercase()
    return tokens


def _across_words() -> Tokenizer:
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens.train_from_iterator(
        ["to be or not to be"] * 9, trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet)
    )
    tokens.add_special_tokens(["<|end|>"])
    return tokens


def _without_bytes() -> Tokenizer:
    tokens = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokens.add_special_tokens(["<|end|>"])
    return tokens


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_lowercase, "only one that gives back every text can be used"),
        (_across_words, "spans a word and the space behind it"),
        (_without_bytes, "only one that gives back every text"),
    ],
)
def test_a_tokenizer_that_breaks_a_promise_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        check_promises(_ours(make(), "<|end|>"), "the folder")
