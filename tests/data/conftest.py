import itertools
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from components.data.sources import pydoc_topics
from components.data.tokenizer import TextTokenizer, save_tokenizer, train_tokenizer
from tests.data.site import Site, serving

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tokenizer of 1024 tokens, learnt from Python's manual."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(pydoc_topics().values(), 1024), folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> TextTokenizer:
    return TextTokenizer.load(tokenizer_folder)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as here:
        yield here


@pytest.fixture(scope="session")
def biographies() -> Path:
    """Real encyclopaedic text, where the shared data lies beside the repository."""
    path = SHARED_DATA / "pretrain" / "enwiki_bios" / "valid.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path.name} of ../shared/data is not here")
    return path


def prose(n_documents: int, seed: int = 0, words: int = 120) -> list[str]:
    """Invented text whose words are as unevenly used as real ones."""
    chance = random.Random(seed)
    syllables = ["ba", "ne", "ti", "ro", "lu", "sha", "mi", "kor", "el", "an", "the", "of"]
    lexicon = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(2000)]
    # Accumulated once: ``choices`` would add the weights up again for every document.
    weights = list(itertools.accumulate(1 / rank for rank in range(1, 2001)))
    return [
        f"{number}. " + " ".join(chance.choices(lexicon, cum_weights=weights, k=words)) + ".\n"
        for number in range(n_documents)
    ]


def write_jsonl(path: Path, texts: Iterable[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts), encoding="utf-8")
    return path
