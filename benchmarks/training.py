"""What training costs on this machine, as ratios. ``python -m benchmarks.training [NAME ...]``.

Names: ``precision`` (automatic precision, and with torch.compile, against fp32 eager), ``trainer`` (Lightning's Trainer
with our callbacks against a plain loop), ``resume`` (SIGKILL at a random step: are the final weights bit-equal?),
``attention`` and ``cross_entropy`` (the implementations that ``components.model.ops`` chooses, against the obvious
ones), ``call_statistics`` (what a loss that ranks tokens and knows ``<CALL>`` costs beside the plain one). All by
default. Both sides of a ratio run in one process, in turns, and the numbers are medians, so that other load
on the machine affects both alike. ``--preset`` takes a model of ``conf/model``, ``--threads`` their number.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads
from components.model.checkpoint import WEIGHTS

quiet_threads()

import argparse
import contextlib
import io
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import lightning
import torch
import torch.nn.functional as F
import yaml
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.results import Result, add_record_option, given_command, record
from components.core.identity import Identity
from components.core.run import Run
from components.core.worker import Request, write_request
from components.data import prepare
from components.data.config import DataConfig
from components.data.prepared import PreparedData
from components.data.world.config import WorldConfig
from components.model import ops
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.checkpoints import Checkpoints
from components.training.config import PretrainConfig, TrainerConfig
from components.training.history import History
from components.training.loader import Batch, TrainingBatches
from components.training.module import TrainingModule
from components.training.objectives.next_token import NextToken
from components.training.optimizer import adamw, optimizer
from components.training.precision import chosen_precision
from components.training.threads import set_threads
from components.training.trained import TrainedModel, read_history
from components.training.trainer import ShardData, lightning_trainer

MODELS = Path(__file__).resolve().parents[1] / "conf" / "model"
ROUNDS = 9

Step = Callable[[], object]
TokenLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    """Run the named benchmarks and print one table."""
    names: dict[str, Callable[[ModelConfig, int], Iterator[Result]]] = {
        "precision": precision,
        "trainer": trainer,
        "resume": resume,
        "attention": attention,
        "cross_entropy": cross_entropy,
        "call_statistics": call_statistics,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *names], metavar="NAME", help=", ".join(names))
    parser.add_argument("--preset", default="quick", choices=sorted(path.stem for path in MODELS.glob("*.yaml")))
    parser.add_argument("--threads", type=int, default=0, help="0: one per physical core")
    add_record_option(parser)
    arguments = parser.parse_args()
    model = ModelConfig.model_validate(yaml.safe_load((MODELS / f"{arguments.preset}.yaml").read_text()))
    threads = set_threads(TrainerConfig(threads=arguments.threads))

    table = Table(title=f"training, {model.name}, CPU, {threads} threads, torch {torch.__version__}")
    for column in ("what", "measured", "goal", "remark"):
        table.add_column(column)
    for name in arguments.names or names:
        results = []
        for result in names[name](model, threads):
            print(result, file=sys.stderr, flush=True)
            table.add_row(result.what, result.measured, result.goal, result.remark)
            results.append(result)
        if arguments.record:
            record(f"training {name}", results, given_command("benchmarks.training", name, names))
    Console().print(table)


def interleaved(steps: Mapping[str, Step], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of every step, run in turns after two calls to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-2, rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return {name: median(times) for name, times in seconds.items()}


def precision(config: ModelConfig, threads: int, vocab_size: int = 2048) -> Iterator[Result]:
    """Optimizer steps of one model on one batch, by precision."""
    batch = random_batch(config, vocab_size, rows=16)
    auto = chosen_precision("auto", torch.device("cpu"))
    eager = {
        "fp32": training_step(config, vocab_size, batch, "32-true"),
        "auto": training_step(config, vocab_size, batch, auto),
    }
    began = time.perf_counter()
    compiled = training_step(config, vocab_size, batch, auto, compiled=True)
    compiled()
    compile_seconds = time.perf_counter() - began
    times = interleaved({**eager, "compiled": compiled})
    tokens = batch.tokens.numel()
    fp32 = f"fp32 eager: {tokens / times['fp32']:,.0f} tokens/s"
    hardware = "" if torch.cpu.get_capabilities().get("amx_bf16") else "; the goal is for AMX, which this CPU lacks"
    for name, goal in (("auto", "2.0"), ("compiled", "2.8")):
        words = f"{auto} {'eager' if name == 'auto' else 'torch.compile'} / fp32 eager, tokens/s"
        cost = f"; compiling took {compile_seconds:.0f} s" if name == "compiled" else ""
        yield Result(words, f"{times['fp32'] / times[name]:.2f} x", f">= {goal} x", fp32 + hardware + cost)


def random_batch(config: ModelConfig, vocab_size: int, rows: int) -> Batch:
    """A batch of documents of about a third of the context."""
    torch.manual_seed(0)
    tokens = torch.randint(5, vocab_size, (rows, config.context_length + 1))
    starts = torch.zeros(rows, config.context_length, dtype=torch.long)
    for third in (1, 2):
        starts[:, third * config.context_length // 3 :] = third * config.context_length // 3
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), starts)


def training_step(
    config: ModelConfig, vocab_size: int, batch: Batch, precision: str, compiled: bool = False
) -> Callable[[], Tensor]:
    """The step of our training as a plain function: forward, backward, clip, AdamW."""
    settings = TrainerConfig()
    module = TrainingModule(Transformer(config, vocab_size), settings, NextToken())
    if compiled:
        module.model.compile()
    return plain_step(module, adamw(module.model, settings), precision, lambda: batch)


def plain_step(
    module: TrainingModule, optimizer: torch.optim.Optimizer, precision: str, batches: Callable[[], Batch]
) -> Callable[[], Tensor]:
    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = module.training_step(batches(), 0)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.model.parameters(), module.config.gradient_clip, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


class StepTimes(lightning.Callback):  # type: ignore[misc]
    """Wall and processor seconds from the end of each step to the end of the next, the first one left out."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []
        self._last: tuple[float, float] | None = None
        self._steps = 0

    def on_train_start(self, *_: Any) -> None:
        self._steps = 0

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter(), time.process_time()
        if self._steps > 1 and self._last is not None:
            self.wall.append(now[0] - self._last[0])
            self.processor.append(now[1] - self._last[1])
        self._last = now
        self._steps += 1


def trainer(config: ModelConfig, threads: int) -> Iterator[Result]:
    """The same model, data and step: inside the Trainer as the stage sets it up, and in a plain loop."""
    turns, steps = 10, 8
    in_trainer, in_loop = StepTimes(), StepTimes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = small_world(folder / "prepared")
        shards = prepared.shards()
        settings = TrainerConfig(max_steps=steps, warmup_fraction=0.0, threads=threads, checkpoint_every_steps=10**9)
        cfg = PretrainConfig(model=config, trainer=settings)
        chosen = chosen_precision(settings.precision, torch.device("cpu"))
        for _ in range(turns):
            run = Run.recorded(folder / "run", local_identity())
            history = History(run, settings, settings.batch_size * config.context_length, 0.0, progress_bar=False)
            callbacks = [history, Checkpoints(folder / "checkpoints", settings, history), in_trainer]
            module = TrainingModule(Transformer(config, shards.vocab_size), settings, NextToken(), 1.0)
            data = ShardData(shards, cfg)
            lightning_trainer(settings, torch.device("cpu"), chosen, folder, callbacks).fit(module, datamodule=data)

            split, length = shards.splits["train"], config.context_length
            batches = iter(TrainingBatches(split, data.order, length, shards.boundary_id, 0, 0, steps))
            module = TrainingModule(Transformer(config, shards.vocab_size), settings, NextToken(), 1.0)
            loop = plain_step(module, optimizer(module.model, settings), chosen, partial(next, batches))
            in_loop.on_train_start()
            for _ in range(steps):
                loop()
                in_loop.on_train_batch_end()
    for clock in ("wall", "processor"):
        plain, ours = median(getattr(in_loop, clock)), median(getattr(in_trainer, clock))
        remark = f"{len(in_loop.wall)} steps each in {turns} turns; {plain * 1e3:.0f} and {ours * 1e3:.0f} ms"
        yield Result(f"Trainer / plain loop, tokens per {clock} second", f"{plain / ours:.3f} x", ">= 0.95 x", remark)


def resume(config: ModelConfig, threads: int) -> Iterator[Result]:
    """Three runs of one configuration in processes of their own; two of them killed at a random step."""
    settings = TrainerConfig(
        max_steps=30,
        warmup_fraction=0.1,
        threads=threads,
        log_every_steps=1,
        checkpoint_every_steps=4,
        validation_batches=1,
    )
    cfg = PretrainConfig(model=config, trainer=settings)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = small_world(folder / "prepared")
        whole = final_weights(folder / "whole", cfg, prepared, kill_after=None)
        for attempt in range(2):
            step = random.randint(5, settings.max_steps - 1)
            resumed = final_weights(folder / f"killed-{attempt}", cfg, prepared, kill_after=step)
            differing = [name for name in whole if not torch.equal(whole[name], resumed[name])]
            yield Result(
                f"killed after step {step} of {settings.max_steps}, resumed",
                f"{len(differing)} of {len(whole)} tensors differ",
                "bit-equal",
                f"checkpoint every {settings.checkpoint_every_steps} steps",
            )


def final_weights(
    folder: Path, cfg: PretrainConfig, prepared: PreparedData, kill_after: int | None
) -> dict[str, Tensor]:
    request = Request(
        function="components.pretrain:stage",
        config_type="components.training.config:PretrainConfig",
        config=cfg.model_dump(mode="json"),
        inputs={"prepared": prepared.folder},
        identity=local_identity(),
    )
    folder.mkdir()
    write_request(folder, request)
    command = [sys.executable, "-m", "components.core.worker", str(folder)]
    if kill_after is not None:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while not any(row["step"] >= kill_after for row in read_history(folder / TrainedModel.HISTORY)):
            if process.poll() is not None:
                raise RuntimeError(f"the run ended (code {process.returncode}) before step {kill_after}")
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return load_file(folder / TrainedModel.MODEL / WEIGHTS)


def small_world(folder: Path) -> PreparedData:
    data = DataConfig(world=WorldConfig(entities=200))
    with contextlib.redirect_stderr(io.StringIO()):
        return prepare.stage(Run.local(folder, "prepare"), data)


def local_identity() -> Identity:
    return Identity(stage="benchmark", key="0" * 32, config={}, inputs={}, code={}, environment={})


def attention(config: ModelConfig, threads: int) -> Iterator[Result]:
    """Forward and backward against torch's math path and its flash kernel, both as they come.

    First the shape that the goals are set for (4 x 512 tokens, 8 heads of 64), then the preset's heads.
    """
    fp32, bf16 = torch.float32, torch.bfloat16
    goal, own = (8, 8, 64), (config.heads, config.kv_heads, config.head_dim)
    yield attention_result(4, 512, goal, fp32, packed=False, goal=">= 1.8 x math")
    yield attention_result(4, 512, (8, 2, 64), fp32, packed=False, goal=">= 2 x math")
    yield attention_result(4, 512, goal, fp32, packed=True, goal=">= 2 x math")
    yield attention_result(4, 512, (8, 2, 64), bf16, packed=True, goal=">= 2 x math")
    for seq, dtype in ((512, fp32), (256, bf16), (512, bf16), (1024, bf16)):
        goal_text = ">= 1.8 x math" if dtype == fp32 else ">= 1 x flash"
        yield attention_result(16 * 256 // seq, seq, own, dtype, packed=True, goal=goal_text)


def attention_result(
    rows: int, seq: int, heads: tuple[int, int, int], dtype: torch.dtype, packed: bool, goal: str
) -> Result:
    """``heads``: of queries, of keys, and their size. ``packed``: two documents a row."""
    query_heads, kv_heads, head_dim = heads
    query, key, value = (
        torch.randn(rows, seq, count, head_dim, dtype=dtype, requires_grad=True)
        for count in (query_heads, kv_heads, kv_heads)
    )
    documents = mask = None
    if packed:
        starts = torch.zeros(rows, seq, dtype=torch.long)
        starts[:, seq // 2 :] = seq // 2
        documents, mask = ops.packed(starts, dtype, head_dim), ops.attention_mask(starts, dtype)
    calls = {
        "ours": partial(ops.attention, query, key, value, documents),
        "math": partial(torch_attention, SDPBackend.MATH, query, key, value, mask),
        "flash": partial(torch_attention, SDPBackend.FLASH_ATTENTION, query, key, value, mask),
    }
    upstream = torch.randn_like(query)
    times = interleaved({name: partial(both_ways, call, upstream) for name, call in calls.items()})
    kind = str(dtype).removeprefix("torch.")
    return Result(
        f"attention {kind}, {rows} x {seq} tokens, {query_heads}:{kv_heads} heads of {head_dim}, "
        f"{'two documents a row' if packed else 'plain causal'}",
        f"{times['math'] / times['ours']:.2f} x math, {times['flash'] / times['ours']:.2f} x flash",
        goal,
        f"{times['ours'] * 1e3:.1f} ms; torch's flash itself {times['math'] / times['flash']:.2f} x math",
    )


def torch_attention(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=query.shape[1] != key.shape[1]
        ).transpose(1, 2)


def both_ways(forward: Callable[[], Tensor], upstream: Tensor) -> None:
    forward().backward(upstream)  # type: ignore[no-untyped-call]


def cross_entropy(config: ModelConfig, threads: int) -> Iterator[Result]:
    """Forward and backward of the output layer and its loss, against F.cross_entropy on all logits at once."""
    for rows, vocab_size in ((2048, 8192), (4096, 2048), (4096, 8192)):  # the first is what the goal is set for
        hidden = torch.randn(rows, config.width, requires_grad=True)
        weight = torch.randn(vocab_size, config.width, requires_grad=True)
        targets = torch.randint(0, vocab_size, (rows,))

        for precision in ("32-true", "bf16-mixed"):
            steps = {
                name: partial(loss_both_ways, implementation, hidden, weight, targets, precision)
                for name, implementation in {"plain": plain_loss, "ours": ops.linear_cross_entropy}.items()
            }
            times = interleaved(steps)
            memory = {name: peak_bytes(run) for name, run in steps.items()}
            yield Result(
                f"output layer and loss, {precision}, {rows} rows, vocabulary {vocab_size}",
                f"{times['ours'] / times['plain']:.2f} x time, {memory['ours'] / memory['plain']:.2f} x memory",
                "<= 1.1 x time, <= 0.6 x memory",
                f"{times['ours'] * 1e3:.0f} ms, {memory['ours'] / 1e6:.0f} MB",
            )


def call_statistics(config: ModelConfig, threads: int) -> Iterator[Result]:
    """The loss of LaCy (arXiv:2602.12005: the 15 % hardest facts of a batch learn to call) against the plain one.

    Only the two losses are timed against each other. The difference is given as a share of the whole step.
    """
    auto = chosen_precision("auto", torch.device("cpu"))
    for vocab_size in (2048, 8192):
        batch = random_batch(config, vocab_size, rows=8)
        targets = batch.targets.flatten()
        hidden = torch.randn(len(targets), config.width, requires_grad=True)
        weight = torch.randn(vocab_size, config.width, requires_grad=True)
        factual = torch.rand(len(targets)) < 0.25
        losses: dict[str, TokenLoss] = {
            "plain": ops.linear_cross_entropy,
            "delegating": partial(delegation_loss, factual),
        }
        steps: dict[str, Step] = {
            name: partial(loss_both_ways, loss, hidden, weight, targets, auto) for name, loss in losses.items()
        }
        times = interleaved({**steps, "step": training_step(config, vocab_size, batch, auto)}, rounds=5 * ROUNDS)
        extra = times["delegating"] - times["plain"]
        yield Result(
            f"delegation's loss over the plain one, {auto}, {len(targets)} rows, vocabulary {vocab_size}",
            f"{extra / times['step']:+.1%} of a step",
            "<= 3 %",
            f"{extra * 1e3:+.1f} ms on {times['plain'] * 1e3:.1f} ms of a step of {times['step'] * 1e3:.0f} ms",
        )


def delegation_loss(factual: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    stats = ops.linear_token_stats(hidden, weight, targets, call_id=1)
    hardness = torch.where(factual, stats.nll_excl.detach(), -1.0)
    called = torch.zeros_like(factual)
    called[hardness.topk(len(targets) * 15 // 100).indices] = True
    return torch.where(called, -stats.logp_call, stats.nll_excl)


def plain_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ weight.T).float(), targets, reduction="none")


def loss_both_ways(
    implementation: TokenLoss,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    precision: str,
) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        loss = implementation(hidden, weight, targets).mean()
    loss.backward()  # type: ignore[no-untyped-call]


def peak_bytes(step: Step) -> int:
    """Most bytes that torch had allocated at once during ``step``, beyond what there was before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


if __name__ == "__main__":
    main()
