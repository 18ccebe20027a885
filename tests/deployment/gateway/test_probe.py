"""A server that cannot run the cascade is refused before any client is answered, with the reason and what to do."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from components.cascade.decoding import CascadeRequest
from components.core.errors import ArtifactError, InputError
from components.data.tokenizer import TextTokenizer
from components.deployment.bundle import load_bundle
from components.deployment.decoding import Request
from components.deployment.gateway.engine import GatewayEngine
from components.deployment.gateway.upstream import UnusableUpstreamError, UpstreamError
from components.model.bundle import Bundle
from components.model.generate import Sampling
from components.model.transformer import Transformer
from tests.deployment.conftest import Delegated, Fact
from tests.deployment.export.llama_cpp import LlamaCpp
from tests.deployment.gateway.answers import answer
from tests.deployment.gateway.conftest import in_process, settings


class Published:
    """A server with the published interface of vLLM or SGLang, as far as the gateway needs it, and with faults."""

    def __init__(self, bundle: Bundle, style: str, fault: str = "") -> None:
        loaded = load_bundle(bundle.folder)
        self.model: Transformer = loaded.model
        self.tokenizer: TextTokenizer = loaded.tokenizer
        self.style, self.fault = style, fault

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/v1/models":
            return 200, {"data": [{"id": "tiny", "max_model_len": 128}]}
        if path == "/tokenize" and self.style == "vllm":
            ids = self.tokenizer.encode(body["prompt"])
            return 200, {"tokens": ids[::-1] if self.fault == "tokens" else ids}
        if path == "/v1/completions":
            return 200, {"choices": [self._choice(body)]}
        return 404, {"error": "not found"}

    @torch.inference_mode()
    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        assert (body["model"], body["temperature"]) == ("tiny", 0.0)
        ids: list[int] = []
        stopped: int | None = None
        while stopped is None and len(ids) < body["max_tokens"]:
            logits = self.model.logits(self.model(torch.tensor([body["prompt"] + ids])))[0, -1]
            for id, bias in body["logit_bias"].items() if self.fault != "bias" else ():
                logits[int(id)] += bias
            ids.append(int(logits.argmax()))
            stopped = ids[-1] if ids[-1] in body["stop_token_ids"] and self.fault != "stop" else None
        # vLLM counts the token that ended the text among its ids; SGLang's answers are read with and without.
        told = ids if self.style == "vllm" or stopped is None else ids[:-1]
        text = self.tokenizer.decode(ids)
        finish = {"finish_reason": "length" if stopped is None else "stop"}
        reason = {"stop_reason" if self.style == "vllm" else "matched_stop": stopped}
        known = {} if self.fault == "ids" else {"token_ids": told}
        return {"index": 0, "text": text.upper() if self.fault == "text" else text, **finish, **reason, **known}


@contextmanager
def listening(server: Published) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say({})

        def do_POST(self) -> None:
            self._say(json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def _say(self, body: dict[str, Any]) -> None:
            status, answer = server.answer(self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()


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
