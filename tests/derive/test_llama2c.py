"""llama2.c files: the same text as a decoder of its own that follows ``run.c``, and a refusal of damaged files."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from components.core.errors import ArtifactError
from components.model.generate import Sampling, generate
from components.training.trained import TrainedModel
from tests.derive.conftest import Derive
from tests.derive.llama2c_files import PIECES, write_files, write_tokenizer
from tests.derive.reference_decoder import ReferenceDecoder

PUBLISHED = Path(__file__).resolve().parents[3] / "shared/data/models/aidreams260K"
PROMPTS = ("", "I sense the light", "Ελ°; 1984?")


def _greedy(model: TrainedModel, prompt: str, tokens: int) -> bytes:
    from components.data.tokenizer import TextTokenizer

    tokenizer = TextTokenizer.load(model.model_folder)
    ids = tokenizer.encode(prompt)
    special = tokenizer.special
    settings = Sampling(
        temperature=0,
        max_tokens=tokens,
        stop_ids=frozenset({special.end_of_text}),
        suppress_ids=frozenset({special.call, special.padding, special.im_start, special.im_end}),
    )
    written = [step.token for step in generate(model.load(), [special.end_of_text, *ids], settings)]
    return b"".join(map(tokenizer.token_bytes, [*ids, *(id for id in written if id != special.end_of_text)]))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs the data that lies beside the project")
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_published_model_writes_what_the_reference_decoder_writes(prompt: str, derive: Derive) -> None:
    weights, tokenizer = PUBLISHED / "aidreams260K.bin", PUBLISHED / "tok512.bin"
    reference = ReferenceDecoder(weights, tokenizer)
    steps = 60
    expected = reference.greedy(prompt, steps)
    # SentencePiece puts a space in front of a text; here, who wants it writes it.
    spaced = f" {prompt}" if prompt else ""
    ids = len(reference.encode(prompt))
    assert _greedy(derive(weights), spaced, steps - ids) == expected
    assert len(expected) > 80


@pytest.mark.parametrize(("kv_heads", "tied"), [(4, True), (2, True), (1, False)])
def test_random_files_of_every_shape_are_read_as_the_reference_decoder_reads_them(
    kv_heads: int, tied: bool, tmp_path: Path, derive: Derive
) -> None:
    path = write_files(tmp_path, kv_heads, tied)
    expected = ReferenceDecoder(path, tmp_path / "tokenizer.bin").greedy("the thin hat", 30)
    derived = derive(path)
    ids = len(ReferenceDecoder(path, tmp_path / "tokenizer.bin").encode("the thin hat"))
    assert _greedy(derived, " the thin hat", 30 - ids) == expected
    assert derived.load().config.tied == tied


def test_the_tokenizer_may_be_named(tmp_path: Path, derive: Derive) -> None:
    path = write_files(tmp_path)
    (tmp_path / "tokenizer.bin").rename(tmp_path / "other.bin")
    assert derive(path, tokenizer=str(tmp_path / "other.bin")).details["vocab_size"] == len(PIECES) + 4


def _cut(folder: Path) -> None:
    path = folder / "model.bin"
    path.write_bytes(path.read_bytes()[:-4])


def _header(*numbers: int) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.bin").write_bytes(struct.pack(f"<{len(numbers)}i", *numbers))


def _cut_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.bin"
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, "its header asks for .*: it is truncated"),
        (_header(16, 24), "begins with a header of 28"),
        (_header(0x616B3432, 1, 16, 24, 2, 4, 2), "version 1 or 2: export it with --version 0"),
        (_header(16, 24, 2, 0, 2, 9, 32), "does not begin with the header of a llama2.c file"),
        (_header(16, 24, 2, -4, 2, 9, 32), "does not begin with the header of a llama2.c file"),
        (lambda folder: (folder / "tokenizer.bin").unlink(), "name it with derive.tokenizer"),
        (_cut_tokenizer, "cannot be read as the tokenizer of a llama2.c model"),
        (
            lambda folder: write_tokenizer(folder / "tokenizer.bin", PIECES[:-1]),
            "has 291 tokens and the model 292: they do not belong together",
        ),
        (lambda folder: write_tokenizer(folder / "tokenizer.bin", [*PIECES[:-1], "he"]), "occur twice"),
    ],
)
def test_damaged_files_are_refused_in_words(
    damage: Callable[[Path], object], words: str, tmp_path: Path, derive: Derive
) -> None:
    path = write_files(tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=words):
        derive(path)
