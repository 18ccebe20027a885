"""The gateway before a real llama.cpp answers as its document says, whatever schemathesis makes of it."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from schemathesis import GenerationMode

from components.model.bundle import Bundle
from tests.deployment.export.llama_cpp import LlamaCpp
from tests.deployment.process import drained, running
from tests.deployment.test_openapi import check_answers

BOUNDED = settings(
    max_examples=15, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def url(calling: Bundle, upstream: LlamaCpp) -> Iterator[str]:
    """The gateway's process."""
    named = {"model": "calling", "port": 0, "upstream": f"{upstream.server.listening_address}/v1"}
    arguments = [str(calling.folder), "--settings", json.dumps(named)]
    with running("components.deployment.gateway.server", arguments, {"LACEWING_API_KEY": ""}) as process:
        drained(process)
        assert process.stdout is not None
        yield next(line.split()[-1] for line in process.stdout if " on http://" in line)


@pytest.mark.slow
@pytest.mark.soak  # half a minute; the server with our own engine is asked in every run
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_as_documented(url: str, mode: GenerationMode) -> None:
    check_answers(url, mode, BOUNDED, greedy=True)
