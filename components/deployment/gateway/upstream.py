"""A server that runs the small model: what the gateway asks of it, in its own words.

One request is one piece of an answer. ``<CALL>`` gets a logit bias, so greedy decoding emits it exactly where the logit
of ``<CALL>`` is less than that below all others, and the server stops there. Two kinds of server are known: llama.cpp,
whose own endpoint tells why it stopped, and those that extend OpenAI's completions as vLLM and SGLang do. A vLLM that
runs ``vllm_plugin`` gets the threshold itself, and follows it however tokens are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import httpx

from components.core.errors import ServiceError
from components.data.special_tokens import CALL
from components.data.tokenizer import TextTokenizer
from components.deployment.gateway.drawing import GREEDY, Drawing

# Bounds of a logit bias in OpenAI's protocol; vLLM cuts what is beyond.
MOST_BIAS = 100.0
# JSON knows no infinity: a threshold that no margin of logits is beyond.
_BEYOND = 1e9
SUPPRESSED = float("-inf")
ALWAYS = float("inf")
_SHOWN_CHARACTERS = 200
_WHAT_TO_DO = (
    "The cascade runs before llama.cpp's llama-server, vLLM (0.10.2 or later) and SGLang; before another server, or "
    "without one, run `lacewing serve`"
)


class UpstreamError(ServiceError):
    """The server behind the gateway does not answer, or not as it should."""


class RefusedError(UpstreamError):
    """The server behind the gateway answered, but not with success."""

    def __init__(self, url: str, status: int, said: str) -> None:
        self.reason = f"it answered {status} ({said!r})"
        self.logged = f"the server at {url} answered {status}"
        super().__init__(f"the server at {url} does not go on: {self.reason}")


class UnusableUpstreamError(UpstreamError):
    """The server behind the gateway cannot run the cascade."""

    def __init__(self, url: str, reason: str, advice: str = _WHAT_TO_DO) -> None:
        super().__init__(f"the server at {url} cannot be used: {reason}. {advice}")


@dataclass(frozen=True)
class Piece:
    """What one request brought."""

    ids: tuple[int, ...]
    """Tokens of the text, without the one that ended it."""
    end: Literal["call", "stop", "length"]
    """``<CALL>``, a token that ends an answer, or the limit."""
    text: str = ""
    """How the server spells the tokens."""


class Upstream(Protocol):
    """A server that runs the small model. Thread-safe. All methods raise ``UpstreamError``."""

    @property
    def name(self) -> str:
        """Kind and address, for people."""

    @property
    def decides_apart(self) -> bool:
        """Whether ``<CALL>`` is decided before anything is drawn, so that the threshold holds at any temperature."""

    @property
    def counts_answers(self) -> bool:
        """Whether penalties count ``Drawing.counted`` tokens of the prompt."""

    def write(self, prompt: Sequence[int], max_tokens: int, bias: float, drawing: Drawing = GREEDY) -> Piece:
        """Continue ``prompt`` by at most ``max_tokens``, and stop at ``<CALL>``.

        ``bias`` is added to the logit of ``<CALL>``, from -100 to 100; ``SUPPRESSED`` and ``ALWAYS`` mean what they
        say. A server that ``decides_apart`` takes minus the bias for the threshold of ``logit_margin``, without bounds.
        """

    def ids(self, text: str) -> list[int] | None:
        """How the server reads ``text``; ``None`` if it has no endpoint for that."""

    def context_length(self) -> int | None:
        """The longest text in tokens, if the server tells."""

    def close(self) -> None: ...


class _Http:
    """JSON over HTTP to one server. Uses neither proxies nor ``~/.netrc``."""

    def __init__(self, url: str, key: str, timeout_seconds: float) -> None:
        self.url = url.rstrip("/")
        self.root = self.url.removesuffix("/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=None)
        self._client = httpx.Client(headers=headers, timeout=timeout_seconds, trust_env=False, limits=limits)

    def get(self, path: str) -> httpx.Response:
        return self._asked("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self._asked("POST", path, body)

    def written(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON of a successful answer."""
        response = self.post(path, body)
        if not response.is_success:
            raise RefusedError(self.url, response.status_code, response.text[:_SHOWN_CHARACTERS])
        return self.json(response)

    def json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise UpstreamError(f"the server at {self.url} answered with no JSON") from error

    def close(self) -> None:
        self._client.close()

    def _asked(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            return self._client.request(method, self.root + path, json=body)
        except httpx.TimeoutException as error:
            raise UpstreamError(f"the server at {self.url} did not answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UpstreamError(
                f"the server at {self.url} cannot be reached ({error}): start it, or correct upstream"
            ) from error


class LlamaCpp:
    """llama.cpp's ``llama-server``, by its own endpoint ``/completion``.

    It knows no stop token but a stop text, and shows special tokens as text only if they are named to be preserved. The
    ids say whether the text was the token or was spelled with others.
    """

    def __init__(self, http: _Http, tokenizer: TextTokenizer, props: dict[str, Any]) -> None:
        self._http, self._props = http, props
        self._call_id = tokenizer.call_id
        self._ends = frozenset({tokenizer.end_of_text_id, tokenizer.im_end_id})

    decides_apart = False
    counts_answers = True

    @property
    def name(self) -> str:
        return f"llama.cpp at {self._http.url}"

    def write(self, prompt: Sequence[int], max_tokens: int, bias: float, drawing: Drawing = GREEDY) -> Piece:
        body = {
            "prompt": list(prompt),
            "n_predict": max_tokens,
            "logit_bias": [[self._call_id, False if bias == SUPPRESSED else min(bias, MOST_BIAS)]],
            "stop": [CALL],
            "preserved_tokens": [CALL],
            "return_tokens": True,
            "cache_prompt": True,
            # All that is drawn by, whatever the server was started with, in the order of our own sampling.
            "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
            "temperature": drawing.temperature,
            "top_k": drawing.top_k,
            "top_p": drawing.top_p,
            "min_p": drawing.min_p,
            "seed": drawing.seed,
            "repeat_penalty": 1.0,
            "presence_penalty": drawing.presence_penalty,
            "frequency_penalty": drawing.frequency_penalty,
            "repeat_last_n": drawing.counted,
        }
        answer = self._http.written("/completion", body)
        try:
            ids, kind, text = [int(id) for id in answer["tokens"]], str(answer["stop_type"]), str(answer["content"])
        except (KeyError, TypeError, ValueError) as error:
            raise UpstreamError(f"{self.name} answered with no completion ({type(error).__name__})") from error
        if kind == "eos":
            return Piece(_without_end(ids, self._ends), "stop", text)
        if ids[-1:] == [self._call_id]:
            return Piece(tuple(ids[:-1]), "call", text)
        return Piece(tuple(ids), "length", text)

    def ids(self, text: str) -> list[int] | None:
        answer = self._http.written("/tokenize", {"content": text, "add_special": False, "parse_special": False})
        return [int(id) for id in answer["tokens"]]

    def context_length(self) -> int | None:
        context = self._props["default_generation_settings"].get("n_ctx")
        return int(context) if context else None

    def close(self) -> None:
        self._http.close()


class OpenAIStyle:
    """OpenAI's completions with the extensions of vLLM and SGLang.

    Both take ``stop_token_ids`` and ``return_token_ids``. The token that ended an answer is ``stop_reason`` in vLLM,
    ``matched_stop`` in SGLang. Their penalties count what the request at hand has written.
    """

    counts_answers = False

    def __init__(self, http: _Http, tokenizer: TextTokenizer, model: str) -> None:
        self._http = http
        self._call_id = tokenizer.call_id
        self._ends = frozenset({tokenizer.end_of_text_id, tokenizer.im_end_id})
        self._listed = self._models()
        self._model = model or next(iter(self._listed), "")
        self.decides_apart = False

    @property
    def name(self) -> str:
        return f"{self._model or 'a model'} at {self._http.url}"

    def try_threshold(self, prompt: Sequence[int]) -> None:
        """Give the threshold to the server's plugin from now on, if it has ours."""
        self.decides_apart = True
        try:
            followed = [self.write(prompt, 1, bias).end == "call" for bias in (ALWAYS, SUPPRESSED)]
        except RefusedError:
            followed = []
        self.decides_apart = followed == [True, False]

    def write(self, prompt: Sequence[int], max_tokens: int, bias: float, drawing: Drawing = GREEDY) -> Piece:
        body = {
            "model": self._model,
            "prompt": list(prompt),
            "max_tokens": max_tokens,
            **self._rule(bias),
            "stop_token_ids": [self._call_id, *sorted(self._ends)],
            "return_token_ids": True,
            # All that is drawn by, whatever the server was started with.
            "temperature": drawing.temperature,
            "top_p": drawing.top_p,
            "top_k": drawing.top_k or -1,
            "min_p": drawing.min_p,
            "seed": drawing.seed,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }
        answer = self._http.written("/v1/completions", body)
        try:
            choice = answer["choices"][0]
            ids, text = choice.get("token_ids"), str(choice["text"])
            finish, by = choice["finish_reason"], choice.get("stop_reason", choice.get("matched_stop"))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise UpstreamError(f"{self.name} answered with no completion ({type(error).__name__})") from error
        if ids is None:
            raise UnusableUpstreamError(self._http.url, "it does not return the ids of what it writes")
        if by == self._call_id:
            return Piece(_without_end(ids, {self._call_id}), "call", text)
        if finish == "stop":
            return Piece(_without_end(ids, self._ends), "stop", text)
        return Piece(tuple(ids), "length", text)

    def ids(self, text: str) -> list[int] | None:
        body = {"model": self._model, "prompt": text, "add_special_tokens": False}
        response = self._http.post("/tokenize", body)
        if not response.is_success:
            return None
        answer = self._http.json(response)
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        return [int(id) for id in tokens] if isinstance(tokens, list) else None

    def context_length(self) -> int | None:
        return self._listed.get(self._model)

    def close(self) -> None:
        self._http.close()

    def _rule(self, bias: float) -> dict[str, Any]:
        if not self.decides_apart:
            return {"logit_bias": {str(self._call_id): max(-MOST_BIAS, min(bias, MOST_BIAS))}}
        threshold = max(-_BEYOND, min(-bias, _BEYOND))
        return {"vllm_xargs": {"lacewing_call_id": self._call_id, "lacewing_call_threshold": threshold}}

    def _models(self) -> dict[str, int | None]:
        """The models that the server lists, with the length of their contexts if it tells."""
        response = self._http.get("/v1/models")
        if not response.is_success:
            raise UnusableUpstreamError(
                self._http.url,
                f"it answered {response.status_code} at /v1/models",
                "upstream is the base URL of an OpenAI-compatible server, such as http://127.0.0.1:8080/v1",
            )
        try:
            return {str(card["id"]): card.get("max_model_len") for card in self._http.json(response)["data"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise UpstreamError(f"the server at {self._http.url} answered with no list of models") from error


def open_upstream(url: str, tokenizer: TextTokenizer, model: str, key: str, timeout_seconds: float) -> Upstream:
    """The server at ``url``; which kind it is, it says itself."""
    http = _Http(url, key, timeout_seconds)
    try:
        props = http.get("/props")
        if props.is_success and "default_generation_settings" in (known := http.json(props)):
            return LlamaCpp(http, tokenizer, known)
        return OpenAIStyle(http, tokenizer, model)
    except BaseException:
        http.close()
        raise


def _without_end(ids: Sequence[int], ends: "frozenset[int] | set[int]") -> tuple[int, ...]:
    """Servers differ in whether the token that ended an answer is one of its tokens."""
    return tuple(ids[:-1]) if ids and ids[-1] in ends else tuple(ids)
