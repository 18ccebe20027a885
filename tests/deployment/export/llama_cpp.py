"""A real llama.cpp in this process, for tests of what we write for it."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

_starting = threading.Lock()


@dataclass(frozen=True)
class LlamaCpp:
    """What it makes of a GGUF file."""

    server: Any

    def ids(self, text: str, special: bool = False) -> list[int]:
        """The tokens of ``text``; with ``special``, the names of special tokens stand for them."""
        request = {"content": text, "parse_special": special}
        answer = httpx.post(f"{self.server.listening_address}/tokenize", json=request, trust_env=False)
        return list(answer.raise_for_status().json()["tokens"])

    def greedy(self, prompt: Sequence[int], tokens: int, suppressed: int) -> list[int]:
        """The likeliest continuation."""
        return list(self._completion(prompt, tokens, suppressed)["tokens"])

    def likelihood(self, prompt: Sequence[int], suppressed: int) -> float | None:
        """Log-probability of the likeliest token; ``None`` if it is half a character, of which it tells nothing."""
        said = self._completion(prompt, 1, suppressed).get("completion_probabilities")
        return float(said[0]["logprob"]) if said else None

    def _completion(self, prompt: Sequence[int], tokens: int, suppressed: int) -> dict[str, Any]:
        request = {
            "prompt": list(prompt),
            "temperature": 0,
            "n_predict": tokens,
            "n_probs": 1,
            "return_tokens": True,
            "logit_bias": [[suppressed, False]],
        }
        answer = httpx.post(f"{self.server.listening_address}/completion", json=request, trust_env=False, timeout=60)
        return dict(answer.raise_for_status().json())


@contextmanager
def llama_cpp(path: Path, context: int) -> Iterator[LlamaCpp]:
    """A server for the file, on loopback."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = context
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = 1
    parameters.warmup = False
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    # Its flash attention for CPUs rounds to half precision.
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.port = 0
    with _starting:
        server = xllamacpp.Server(parameters)
    yield LlamaCpp(server)
    del server
