"""How fast the server answers, beside ``transformers.generate``. ``python -m benchmarks.serving``.

Random weights of a preset's size, greedy answers. Tokens per second of the server with one, four and eight clients, of
the decoder without a server, and of transformers: one prompt after another and as one static batch, in its faster
dtype. Where lengths differ, a static batch goes on to its longest answer; only the tokens that were asked for count.
Time to the first token of one client, alone and while seven others are answered. Rounds are interleaved; a rate is the
best of them, because other load on the machine only takes away, and a ratio is of such rates.
``--cpu`` compares CPU time, which other load disturbs less; it is meant for one thread.
``--llama-cpp`` measures our server beside llama.cpp's instead (``benchmarks.serving_llama_cpp``).
``--adapters 8`` measures something else: the server with eight adapters, one for each client, beside the server with
one for all and the server without any; LoRA of rank ``--rank`` on all matrices.
Options: ``--shapes quick,10m --threads 2 --tokens 128 --prompt-tokens 64 --rounds 5``. Needs transformers.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import http.client
import json
import os
import random
import statistics
import string
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.results import Result, add_record_option, given_command, machine, record
from components.core.artifact import Artifact
from components.core.identity import RecordedIdentity
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.special_tokens import SpecialTokens
from components.data.tokenizer import save_tokenizer, train_tokenizer
from components.deployment import bundle as bundle_stage
from components.deployment.bundle import load_bundle
from components.deployment.config import BundleStageConfig
from components.deployment.smoke import server
from components.evaluation.artifacts import Scores
from components.model.adapters.adapter import adapted
from components.model.adapters.config import AdapterConfig
from components.model.adapters.files import write_adapter
from components.model.checkpoint import load_model, save_model
from components.model.config import ModelConfig
from components.model.decoder import Decoder
from components.model.decoder_pass import DecoderPass
from components.model.sampling import Sampling
from components.model.transformer import Transformer
from components.training.trained import TrainedModel

PRESETS = Path(__file__).parents[1] / "conf" / "model"
VOCAB_SIZES = {"quick": 4096}
VOCAB_SIZE = 32_768
CLIENTS = 8
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Rates:
    """Tokens per second, the best of the rounds, by what was measured."""

    cpu: bool
    """Whether seconds are CPU time: of the server process for the server, of this one for the others."""
    port: int = 0
    best: dict[str, float] = field(default_factory=dict)

    def time(self, name: str, tokens: int, action: Callable[[], object]) -> None:
        """Note how fast ``action`` writes ``tokens``."""
        clock = time.perf_counter
        if self.cpu:
            clock = self._server_cpu if "client" in name else time.process_time
        started = clock()
        action()
        self.best[name] = max(self.best.get(name, 0.0), tokens / (clock() - started))

    def _server_cpu(self) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120.0)
        with closing(connection):
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        return float(next(line for line in lines if line.startswith("process_cpu_seconds_total ")).split()[1])

    def faster(self, name: str) -> tuple[str, float]:
        """The faster dtype of transformers, and its rate."""
        return max(((dtype, self.best[f"{name} {dtype}"]) for dtype in DTYPES), key=lambda found: found[1])


def main() -> None:
    """Measure every shape and print its rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--shapes", default="quick,10m", help="presets of the model")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of a forward pass, everywhere")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of every answer")
    parser.add_argument("--prompt-tokens", type=int, default=64, help="tokens of every prompt")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--adapters", type=int, default=0, help="measure this many adapters instead")
    parser.add_argument("--rank", type=int, default=4, help="of these adapters")
    parser.add_argument("--cpu", action="store_true", help="CPU time instead of wall time, but for first tokens")
    parser.add_argument("--llama-cpp", action="store_true", help="beside llama.cpp's server, instead of the rest")
    add_record_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = _adapted if options.adapters else _chosen(options)
    results = [result for name in options.shapes.split(",") for result in measured(name, options)]
    what = f"{options.threads} thread(s), {options.prompt_tokens} + {options.tokens} tokens{', CPU time' * options.cpu}"
    what += f", adapters of rank {options.rank}" * bool(options.adapters)
    table = Table("what", "measured", "goal", "remark", title=f"serving, {what}")
    for result in results:
        table.add_row(result.what, result.measured, result.goal, result.remark)
    console = Console(width=180)
    console.print(table)
    console.print(f"{machine()}; load at the end: {os.getloadavg()[0]:.1f}")
    if options.record:
        section = "serving beside llama.cpp" if options.llama_cpp else "serving"
        record(section, results, given_command("benchmarks.serving"))


def _chosen(options: argparse.Namespace) -> Callable[[str, argparse.Namespace], list[Result]]:
    """What measures one shape."""
    if options.llama_cpp:
        from benchmarks.serving_llama_cpp import measured  # needs xllamacpp

        return measured
    return _measured


def _measured(name: str, options: argparse.Namespace) -> list[Result]:
    """The rows of one shape."""
    shape = ModelConfig(**yaml.safe_load((PRESETS / f"{name}.yaml").read_text()))
    lengths = [options.tokens * (at + 1) // CLIENTS for at in range(CLIENTS)]
    equal = [options.tokens] * CLIENTS
    flags = ["--name=b", f"--threads={options.threads}", f"--max-concurrent-requests={CLIENTS}"]
    rates, alone, loaded = Rates(options.cpu), list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        bundle = random_bundle(shape, VOCAB_SIZES.get(name, VOCAB_SIZE), Path(folder))
        model = load_bundle(bundle.folder).model
        rounded = load_bundle(bundle.folder).model.to(torch.bfloat16)
        forward, rounded_forward = DecoderPass(model), DecoderPass(rounded)
        theirs = {dtype: _transformers(bundle.folder, torch_dtype) for dtype, torch_dtype in DTYPES.items()}
        prompts = make_prompts(options.prompt_tokens, model.vocab_size)
        with server(bundle.folder, Path(folder) / "log", 120.0, flags) as url:
            port = rates.port = int(url.rpartition(":")[2])
            serve(port, prompts, equal)  # warm up
            for _ in range(options.rounds):
                rates.time("1 client", sum(equal[:1]), lambda: serve(port, prompts[:1], equal[:1]))
                rates.time("4 clients", sum(equal[:4]), lambda: serve(port, prompts[:4], equal[:4]))
                rates.time("8 clients", sum(equal), lambda: serve(port, prompts, equal))
                rates.time("8 clients, lengths", sum(lengths), lambda: serve(port, prompts, lengths))
                rates.time("decoder 1", sum(equal[:1]), lambda: _decode(model, forward, prompts[:1], equal[:1]))
                rates.time("decoder 8", sum(equal), lambda: _decode(model, forward, prompts, equal))
                rates.time("decoder 8 bf16", sum(equal), lambda: _decode(rounded, rounded_forward, prompts, equal))
                rates.time("decoder 8, lengths", sum(lengths), lambda: _decode(model, forward, prompts, lengths))
                for dtype, other in theirs.items():
                    rates.time(f"one {dtype}", equal[0], lambda o=other: _generate(o, prompts[:1], equal[0]))  # type: ignore[misc]
                    rates.time(f"batch {dtype}", sum(equal), lambda o=other: _generate(o, prompts, equal[0]))  # type: ignore[misc]
                    rates.best[f"batch, lengths {dtype}"] = rates.best[f"batch {dtype}"] * sum(lengths) / sum(equal)
                alone += [_ask(port, prompts[0], 2)[0] for _ in range(20)]
                loaded += _under_load(port, prompts, lengths)
    return _rows(f"{bundle.metrics['parameters'] / 1e6:.1f} M ({name})", rates, alone, loaded)


def _rows(model: str, rates: Rates, alone: Sequence[float], loaded: Sequence[float]) -> list[Result]:
    def against(what: str, ours: str, name: str, goal: str) -> Result:
        dtype, other = rates.faster(name)
        served, decoded = rates.best[f"8 clients{ours}"], rates.best[f"decoder 8{ours}"]
        return Result(
            f"{model}: 8 clients against transformers, {what}",
            f"{served / other:.1f} x",
            goal,
            f"{served:.0f} against {other:.0f} tokens/s ({dtype}); the decoder without a server {decoded:.0f}",
        )

    unloaded, middle, p95 = statistics.median(alone), statistics.median(loaded), statistics.quantiles(loaded, n=20)[-1]
    one, four, decoder = rates.best["1 client"], rates.best["4 clients"], rates.best["decoder 1"]
    fp32, bf16 = rates.best["decoder 8"], rates.best["decoder 8 bf16"]
    return [
        against("one after another", "", "one", ">= 4 x"),
        against("static batch, equal lengths", "", "batch", ">= 1.2 x"),
        against("static batch, lengths from 1/8 to all", ", lengths", "batch, lengths", ">= 1.5 x"),
        Result(
            f"{model}: 4 clients against 1",
            f"{four / one:.1f} x",
            ">= 2 x",
            f"{four:.0f} against {one:.0f} tokens/s; one row of the decoder without a server {decoder:.0f}",
        ),
        Result(
            f"{model}: first token, 95th percentile beside 7 other clients against the median alone",
            f"{p95 / unloaded:.1f} x",
            "<= 3 x",
            f"{1e3 * p95:.1f} against {1e3 * unloaded:.1f} ms; the median beside the others {1e3 * middle:.1f} ms",
        ),
        Result(
            f"{model}: the decoder in bf16 against fp32, 8 rows",
            f"{bf16 / fp32:.2f} x",
            remark=f"{bf16:.0f} against {fp32:.0f} tokens/s, without a server",
        ),
    ]


def _adapted(name: str, options: argparse.Namespace) -> list[Result]:
    """The rows of one shape with adapters: three servers, asked in turns."""
    shape = ModelConfig(**yaml.safe_load((PRESETS / f"{name}.yaml").read_text()))
    flags = ["--name=b", f"--threads={options.threads}", f"--max-concurrent-requests={CLIENTS}"]
    rates = Rates(options.cpu)
    with tempfile.TemporaryDirectory() as made, ExitStack() as servers:
        bundle = random_bundle(shape, VOCAB_SIZES.get(name, VOCAB_SIZE), Path(made))
        folders = {f"a{at}": str(Path(made) / f"a{at}") for at in range(options.adapters)}
        for seed, folder in enumerate(folders.values()):
            _write_adapter(bundle.folder, Path(folder), options.rank, seed)
        ports: dict[int, int] = {}
        for count in (0, 1, options.adapters):
            given = f"--adapters={json.dumps(dict(list(folders.items())[:count]))}"
            url = servers.enter_context(server(bundle.folder, Path(made) / f"log{count}", 120.0, [*flags, given]))
            ports[count] = int(url.rpartition(":")[2])
        prompts, equal = (
            make_prompts(options.prompt_tokens, int(bundle.details["vocab_size"])),
            [options.tokens] * CLIENTS,
        )
        for turn in range(options.rounds + 1):
            for count, port in ports.items():
                models = [f"b:a{at % count}" if count else "b" for at in range(CLIENTS)]
                if turn == 0:
                    serve(port, prompts, equal, models)  # warm up
                    continue
                rates.port = port
                rates.time(f"{count}: 8 clients", sum(equal), lambda p=port, m=models: serve(p, prompts, equal, m))  # type: ignore[misc]
    none, one, many = (rates.best[f"{count}: 8 clients"] for count in ports)
    size = f"{bundle.metrics['parameters'] / 1e6:.1f} M ({name})"
    return [
        Result(
            f"{size}: 8 clients, {options.adapters} adapters of rank {options.rank} against {beside}",
            f"{many / other:.2f} x",
            goal,
            f"{many:.0f} against {other:.0f} tokens/s",
        )
        for beside, other, goal in (("one", one, ">= 0.7 x"), ("none", none, ""))
    ]


def _write_adapter(bundle: Path, folder: Path, rank: int, seed: int) -> None:
    """A LoRA on all matrices and on the rows of the special tokens, of random weights."""
    torch.manual_seed(seed)
    model = load_model(bundle)
    adapter = adapted(model, AdapterConfig(kind="lora", rank=rank), SpecialTokens.read(bundle))
    assert adapter is not None
    with torch.no_grad():
        for weight in adapter.weights().values():
            weight.normal_(std=0.02)
        for trained in adapter.rows.values():
            trained.rows.normal_(std=0.001)  # small: no answer ends early
    write_adapter(adapter, folder, SpecialTokens.read(bundle))


def make_prompts(length: int, vocab_size: int) -> list[list[int]]:
    drawn = random.Random(0)
    return [[drawn.randrange(5, vocab_size) for _ in range(length)] for _ in range(CLIENTS)]


def random_bundle(shape: ModelConfig, vocab_size: int, folder: Path, seed: int = 0) -> Artifact:
    """A bundle of random weights. The special tokens get logit 0, so that greedy answers have full length."""
    torch.manual_seed(seed)
    letters = random.Random(0)
    words = ["".join(letters.choices(string.ascii_lowercase, k=6)) for _ in range(vocab_size)] * 2
    tokenizer = train_tokenizer([" ".join(words)], vocab_size)
    model = Transformer(shape, tokenizer.get_vocab_size())
    with torch.no_grad():
        model.embedding.weight[:5] = 0.0
    pretrain, prepare, assess = (Run.local(folder / name, name) for name in ("pretrain", "prepare", "assess"))
    model_folder = pretrain.folder / TrainedModel.MODEL
    save_tokenizer(tokenizer, model_folder)
    save_model(model, model_folder, SpecialTokens.read(model_folder))
    identity = RecordedIdentity(stage="bundle", key=f"{seed:032x}", config={}, inputs={}, code={}, environment={})
    return bundle_stage.stage(
        Run.recorded(folder / "bundle", identity),
        BundleStageConfig(presence_penalty=0.0),
        delegated=pretrain.seal({"tokens": 0.0}, view=TrainedModel),
        prepared=prepare.seal({}, view=PreparedData),
        assessment=assess.seal({}, view=Scores),
    )


def _transformers(folder: Path, dtype: torch.dtype) -> Any:
    """The same weights in transformers, which never meets a token that ends an answer."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


@torch.inference_mode()
def _generate(model: Any, prompts: Sequence[Sequence[int]], tokens: int) -> None:
    ids = torch.tensor(prompts)
    written = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens)
    assert written.shape[1] == ids.shape[1] + tokens


def _decode(model: Transformer, forward: DecoderPass, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
    decoder = Decoder(model, forward)
    for prompt, tokens in zip(prompts, lengths, strict=True):
        decoder.add(prompt, Sampling(temperature=0.0, max_tokens=tokens))
    while decoder.rows:
        decoder.step()


def serve(
    port: int, prompts: Sequence[Sequence[int]], lengths: Sequence[int], models: Sequence[str] | None = None
) -> None:
    """Streamed answers to as many clients at once; ``models``: that they name, ``b`` if not given."""
    with ThreadPoolExecutor(len(prompts)) as threads:
        asked = zip(prompts, lengths, models or ["b"] * len(prompts), strict=True)
        answers = list(threads.map(lambda each: _ask(port, *each), asked))
    assert [count for _, count in answers] == list(lengths)


def _under_load(port: int, prompts: Sequence[Sequence[int]], lengths: Sequence[int], requests: int = 20) -> list[float]:
    """Seconds to the first token of one client while seven others are answered without a pause.

    Their answers have different lengths, so that they do not all begin together.
    """
    ended = threading.Event()

    def keep_asking(prompt: Sequence[int], tokens: int) -> None:
        while not ended.is_set():
            _ask(port, prompt, tokens)

    with ThreadPoolExecutor(CLIENTS) as threads:
        others = [threads.submit(keep_asking, *other) for other in zip(prompts[1:], lengths[1:], strict=True)]
        time.sleep(0.2)
        found = [_ask(port, prompts[0], 2)[0] for _ in range(requests)]
        ended.set()
        for other in others:
            other.result()
    return found


def _ask(port: int, prompt: Sequence[int], tokens: int, model: str = "b") -> tuple[float, int]:
    """Stream one answer; seconds to the first token, and tokens written.

    Events are taken as they come and read at the end: the clients share the machine with the server.
    """
    body = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120.0)
    with closing(connection):
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        events = [answer.read1()]
        first = time.perf_counter() - started
        while part := answer.read1():
            events.append(part)
    *_, usage, done = b"".join(events).decode().strip().split("\n\n")
    if answer.status != 200 or done != "data: [DONE]":
        raise SystemExit(f"the server answered {answer.status}: {done}")
    return first, int(json.loads(usage.removeprefix("data: "))["usage"]["completion_tokens"])


if __name__ == "__main__":
    main()
