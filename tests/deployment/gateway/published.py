"""A server with the published interface of vLLM or SGLang, for what the gateway asks of it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from components.data.tokenizer import TextTokenizer
from components.deployment.bundle import load_bundle
from components.model.bundle import Bundle
from components.model.transformer import Transformer

Plugin = Callable[[torch.Tensor, dict[str, Any]], torch.Tensor]


class Published:
    """A server with the published interface of vLLM or SGLang, as far as the gateway needs it, and with faults."""

    def __init__(self, bundle: Bundle, style: str, fault: str = "", plugin: Plugin | None = None) -> None:
        """``plugin``: what vLLM's sampler makes of logits, from the arguments of a request."""
        loaded = load_bundle(bundle.folder)
        self.model: Transformer = loaded.model
        self.tokenizer: TextTokenizer = loaded.tokenizer
        self.style, self.fault, self.plugin = style, fault, plugin

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
        assert body["model"] == "tiny"
        draw = torch.Generator().manual_seed(body["seed"])
        ids: list[int] = []
        stopped: int | None = None
        while stopped is None and len(ids) < body["max_tokens"]:
            logits = self.model.logits(self.model(torch.tensor([body["prompt"] + ids])))[0, -1]
            for id, bias in body.get("logit_bias", {}).items() if self.fault != "bias" else ():
                logits[int(id)] += bias
            if self.plugin is not None:
                logits = self.plugin(logits, body.get("vllm_xargs", {}))
            ids.append(self._drawn(logits, body["temperature"], draw))
            stopped = ids[-1] if ids[-1] in body["stop_token_ids"] and self.fault != "stop" else None
        # vLLM counts the token that ended the text among its ids; SGLang's answers are read with and without.
        told = ids if self.style == "vllm" or stopped is None else ids[:-1]
        text = self.tokenizer.decode(ids)
        finish = {"finish_reason": "length" if stopped is None else "stop"}
        reason = {"stop_reason" if self.style == "vllm" else "matched_stop": stopped}
        known = {} if self.fault == "ids" else {"token_ids": told}
        return {"index": 0, "text": text.upper() if self.fault == "text" else text, **finish, **reason, **known}

    def _drawn(self, logits: torch.Tensor, temperature: float, draw: torch.Generator) -> int:
        if temperature == 0.0:
            return int(logits.argmax())
        return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=draw))


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
