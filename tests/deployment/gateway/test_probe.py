"""A server that cannot run the cascade is refused before any client is answered, with the reason and what to do."""

from pathlib import Path

import httpx
import pytest

from components.cascade.decoding import CascadeRequest
from components.core.errors import ArtifactError, InputError
from components.deployment.decoding import Request
from components.deployment.gateway.engine import GatewayEngine
from components.deployment.gateway.upstream import UnusableUpstreamError, UpstreamError
from components.model.bundle import Bundle
from components.model.generate import Sampling
from tests.deployment.conftest import Delegated, Fact
from tests.deployment.export.llama_cpp import LlamaCpp
from tests.deployment.gateway.answers import answer
from tests.deployment.gateway.conftest import in_process, settings
from tests.deployment.gateway.published import Published, listening


@pytest.mark.parametrize("style", ["vllm", "sglang"])
def test_the_published_interfaces_give_the_text_of_our_own_cascade(style: str, calling: Bundle, fact: Fact) -> None:
    with listening(Published(calling, style)) as url, GatewayEngine(calling.folder, settings(url)) as engine:
        assert engine.context_length == 128
        prompt = [engine.tokenizer.end_of_text_id, *engine.tokenizer.encode(fact.prompt)]
        (ours,) = in_process(calling, 0.5).answers([CascadeRequest(prompt, Sampling(temperature=0, max_tokens=24))])
        deltas, counts = answer(engine, Request(prompt, max_tokens=24, temperature=0.0, call_budget=0.5))
    assert "".join(delta.text for delta in deltas) == engine.tokenizer.decode(ours.ids)
    assert counts["calls"] == ours.summary.calls > 0


@pytest.mark.parametrize(
    ("style", "fault", "reason"),
    [
        ("vllm", "bias", "does not follow logit_bias: with the largest bias on <CALL> it wrote"),
        ("vllm", "stop", "it wrote <CALL> and did not stop there"),
        ("vllm", "ids", "does not return the ids"),
        ("vllm", "tokens", "reads text as other tokens.*lacewing export"),
        ("sglang", "text", "spells its tokens.*lacewing export"),
    ],
)
def test_a_server_that_lacks_something_is_refused(style: str, fault: str, reason: str, calling: Bundle) -> None:
    with (
        listening(Published(calling, style, fault)) as url,
        pytest.raises(UnusableUpstreamError, match=f"(?s)cannot be used: .*{reason}") as refused,
    ):
        GatewayEngine(calling.folder, settings(url))
    assert "lacewing" in str(refused.value)


def test_a_real_server_without_logit_bias_is_refused(calling: Bundle, client: httpx.Client) -> None:
    """Our own, which refuses what it does not know."""
    with pytest.raises(UnusableUpstreamError, match=r"answered 400 .*run `lacewing serve`"):
        GatewayEngine(calling.folder, settings(str(client.base_url)))


def test_a_real_llama_cpp_with_another_model_is_refused(
    bundle: Bundle, delegated: Delegated, calling: Bundle, upstream: LlamaCpp, tmp_path: Path
) -> None:
    other = _with_the_tokenizer_of(bundle, calling, tmp_path)
    with pytest.raises(UnusableUpstreamError, match=r"reads text as other tokens.*lacewing export"):
        GatewayEngine(other, settings(upstream.server.listening_address))


def test_a_server_that_is_not_there_is_named(calling: Bundle) -> None:
    with pytest.raises(UpstreamError, match=r"127\.0\.0\.1:9.*cannot be reached.*start it"):
        GatewayEngine(calling.folder, settings("http://127.0.0.1:9/v1"))


def test_a_server_that_goes_away_ends_the_answer_with_the_reason(calling: Bundle) -> None:
    with listening(Published(calling, "vllm")) as url:
        engine = GatewayEngine(calling.folder, settings(url))
    with engine, pytest.raises(UpstreamError, match="cannot be reached"):
        answer(engine, Request([engine.tokenizer.end_of_text_id], max_tokens=8, temperature=0.0))


def test_a_plain_model_and_an_old_calibration_are_refused(bundle: Bundle, asking: Bundle) -> None:
    with pytest.raises(InputError, match="plain model"):
        GatewayEngine(bundle.folder, settings("http://127.0.0.1:9/v1"))
    with pytest.raises(ArtifactError, match="no quantiles of 'logit_margin': run `lacewing delegate` again"):
        GatewayEngine(asking.folder, settings("http://127.0.0.1:9/v1"))


def _with_the_tokenizer_of(tokenizer: Bundle, bundle: Bundle, folder: Path) -> Path:
    """A copy of ``bundle`` that is not sealed."""
    for source, names in (
        (bundle, (Bundle.MANIFEST, Bundle.DELEGATION, Bundle.FACTS)),
        (tokenizer, ("tokenizer.json", "tokenizer_config.json")),
    ):
        for name in names:
            (folder / name).write_bytes((source.folder / name).read_bytes())
    return folder
