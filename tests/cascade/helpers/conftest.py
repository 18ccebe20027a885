"""A small closed world, prepared by the real stage."""

from collections.abc import Callable
from pathlib import Path

import pytest

from components.cascade.config import ReturnUnit
from components.cascade.helpers.base import Call
from components.core.run import Run
from components.data import prepare
from components.data.config import DataConfig
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.data.world.config import WorldConfig

MakeCall = Callable[..., Call]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    run = Run.local(tmp_path_factory.mktemp("prepare"), "prepare")
    return prepare.stage(run, DataConfig(sources=["world"], vocab_size=1024, world=WorldConfig(entities=60)))


@pytest.fixture(scope="session")
def facts(prepared: PreparedData) -> Path:
    assert prepared.fact_table is not None
    return prepared.fact_table


@pytest.fixture(scope="session")
def tokenizer(prepared: PreparedData) -> TextTokenizer:
    return prepared.tokenizer()


def call(text: str, unit: ReturnUnit = "word", max_tokens: int = 16, session: str = "request") -> Call:
    return Call(session=session, text=text, ids=(), unit=unit, max_tokens=max_tokens)
