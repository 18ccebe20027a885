"""The OpenAPI document against the real server: what schemathesis makes of it is answered as documented."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from components.model.bundle import Bundle
from tests.deployment.process import drained, started, url_of

ANSWER_SECONDS = 30.0
CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
MOST_TOKENS = 4
BOUNDED = settings(
    max_examples=30, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def url(asking: Bundle) -> Iterator[str]:
    """A cascade, whose answers have everything that the document knows."""
    with started(asking.folder, "--port", "0") as process:
        drained(process)
        yield url_of(process)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_as_documented(url: str, mode: GenerationMode) -> None:
    """Requests by the document, and others that break it."""
    check_answers(url, mode, BOUNDED)


def check_answers(url: str, mode: GenerationMode, bounded: settings, greedy: bool = False) -> None:
    """Ask the server at ``url`` what its document allows, or what it does not; ``greedy``: at temperature 0 only."""
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in document.get_all_operations()]
    assert {operation.path for operation in operations} > {"/v1/completions", "/v1/chat/completions", "/metrics"}
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # any text is a possible name in a path

        @bounded
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            _shorten(case.body)
            if greedy and isinstance(case.body, dict) and mode is GenerationMode.POSITIVE:
                case.body["temperature"] = 0
            case.call_and_validate(checks=CHECKS, timeout=ANSWER_SECONDS)

        ask()


def _shorten(body: Any) -> None:
    """Valid requests get a short answer: nothing here is about long ones."""
    if not isinstance(body, dict):
        return
    names = ["max_tokens", "max_completion_tokens"] if "messages" in body else ["max_tokens"]
    for name in names:
        if type(body.get(name, MOST_TOKENS)) is int and body.get(name, MOST_TOKENS) > 0:
            body[name] = MOST_TOKENS


def test_errors_stand_in_the_document(url: str) -> None:
    paths = httpx.get(f"{url}/openapi.json", trust_env=False).json()["paths"]
    for path in ("/v1/completions", "/v1/chat/completions"):
        responses = paths[path]["post"]["responses"]
        assert set(responses) == {"200", "400", "401", "403", "404", "408", "413", "429", "500", "503"}
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
        for status in set(responses) - {"200"}:
            schema = responses[status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorBody"}
    assert "404" in paths["/v1/models/{name}"]["get"]["responses"]
    assert all("422" not in operation["responses"] for path in paths.values() for operation in path.values())
