"""Goals E1 to E7: whole training steps.

E1 to E4 train the product's own presets (``product.py``), E5 to E7 a plain GPT, for what Lightning's Trainer and the
compiler add.

MFU is printed with both denominators: the data sheet's 989.5 TFLOP/s of dense bf16, and what ``torch.mm`` reaches here.
"""

from __future__ import annotations

import gc
import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from kernels.bench import gpt
from kernels.bench.gpt import GPT, Batch, Parts, Shape
from kernels.bench.product import PRESET_1B, PRESET_124M, PRESET_TINY, Preset, Training, Way
from kernels.bench.record import Record
from kernels.bench.sections import Section
from kernels.bench.timing import Failed, Program, Spread

DATASHEET_TFLOPS = 989.5
MEAN_DOCUMENT = 256  # tokens, in rows of 1024
BATCHES = 4  # distinct ones, rotated
SYNCS = {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "Memcpy DtoH (Device -> Pageable)"}


@dataclass(frozen=True)
class Sizes:
    """What is trained; a rehearsal has a tiny one."""

    small: Preset
    small_rows: int
    large: Preset
    large_rows: int
    plain: Shape
    mean_document: int
    steps: int

    @classmethod
    def of(cls, record: Record) -> Sizes:
        if record.rehearsal:
            return cls(PRESET_TINY, 1, PRESET_TINY, 1, gpt.TINY, 8, 1)
        return cls(PRESET_124M, 64, PRESET_1B, 16, gpt.GPT_124M, MEAN_DOCUMENT, 20)


def sections(record: Record) -> list[Section]:
    """All end-to-end goals."""
    parts = [
        ("124M, packed documents", ("E4",), _documents),
        ("124M, one document a row", ("E1", "E3 speed", "E3 compiled"), _plain),
        ("124M, largest micro-batch", ("E3 memory",), _micro_batches),
        ("GPT of 124M, compilation", ("E7 breaks", "E7 recompiles"), _compilation),
        ("1B", ("E2",), _large),
        ("GPT of 124M, Lightning's Trainer", ("E5", "E6"), _trainer),
    ]
    return [
        Section("goals", "end_to_end", f"end to end, {what}", goals, partial(run, sizes=Sizes.of(record)))
        for what, goals, run in parts
    ]


def _plain(record: Record, sizes: Sizes) -> None:
    batches = _batches(sizes.small, sizes.small_rows, record.device)
    times = _compare(record, "step", sizes.small, batches, ("ours", "torch", "torch_compiled"))
    label = _label(sizes.small, sizes.small_rows)
    ours = times["ours"]
    if isinstance(ours, Spread):
        thousands = batches[0].tokens.numel() / ours.median
        record.row("E1", label, _speed(record, sizes.small, batches[0], ours), "", thousands, expected=470)
    else:
        record.row("E1", label, reason=ours.reason, expected=470)
    record.ratio("E3 speed", label, ours, times["torch"], expected=1.1)
    record.ratio("E3 compiled", label, ours, times["torch_compiled"], expected=1.01)


def _documents(record: Record, sizes: Sizes) -> None:
    batches = _batches(sizes.small, sizes.small_rows, record.device, sizes.mean_document)
    times = _compare(record, "step_documents", sizes.small, batches, ("ours", "torch"))
    label = f"{_label(sizes.small, sizes.small_rows)} docs mean {sizes.mean_document}"
    record.ratio("E4", label, times["ours"], times["torch"], expected=1.7)


def _large(record: Record, sizes: Sizes) -> None:
    batches = _batches(sizes.large, sizes.large_rows, record.device)
    time = _compare(record, "step_large", sizes.large, batches, ("ours",))["ours"]
    label = _label(sizes.large, sizes.large_rows)
    if isinstance(time, Failed):
        record.row("E2", label, reason=time.reason, expected=50)
        return
    flops = sizes.large.flops_per_token * batches[0].tokens.numel() / time.median / 1e9
    shown = _speed(record, sizes.large, batches[0], time)
    record.row("E2", label, shown, "", 100 * flops / DATASHEET_TFLOPS, expected=50)


def _compare(
    record: Record, mode: str, preset: Preset, batches: list[Batch], ways: Sequence[Way]
) -> dict[str, Spread | Failed]:
    _forget_compiled()
    programs = [_step_program(way, preset, batches, record) for way in ways]
    tokens = batches[0].tokens.numel()
    config: dict[str, object] = {**preset.config, "rows": len(batches[0].tokens)}
    times = record.measure("end_to_end", mode, tokens, config, programs)
    for name, time in times.items():
        if isinstance(time, Spread):
            speed = Spread(*(1e3 * tokens / one for one in (time.median, time.high, time.low)))
            record.keep("end_to_end", name, mode, "tokens/s", tokens, speed, config)
    return times


def _step_program(way: Way, preset: Preset, batches: list[Batch], record: Record) -> Program:
    """Whole optimizer steps; the model is made and compiled in the program's first round."""
    made: list[Training] = []

    def run(batch: Batch) -> object:
        if not made:
            made.append(Training(preset, way, record.ours, record.device))
        return made[0].step(batch)

    return Program(way, run, lambda number: batches[number % len(batches)])


def _model(shape: Shape, parts: Parts, device: torch.device) -> tuple[Callable[..., Tensor], torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = GPT(shape, parts).to(device)
    return _compiled(model), gpt.make_optimizer(model)


def _compiled(model: GPT) -> Callable[..., Tensor]:
    """Without a break in the graph, or an error. A rehearsal does not compile."""
    on_gpu = next(model.parameters()).is_cuda
    return torch.compile(model, fullgraph=True, dynamic=False) if on_gpu else model


def _batches(shape: gpt.Text, rows: int, device: torch.device, mean_document: int | None = None) -> list[Batch]:
    return [gpt.synthetic_batch(shape, rows, seed, device, mean_document) for seed in range(BATCHES)]


def _micro_batches(record: Record, sizes: Sizes) -> None:
    """The largest micro-batch by the slope of the peak memory: two sizes are run, neither to exhaustion."""
    label = _label(sizes.small, sizes.small_rows)
    if record.device.type != "cuda":
        record.row("E3 memory", label, reason="torch counts peak memory on CUDA only")
        return
    room = torch.cuda.get_device_properties(record.device).total_memory
    largest = {}
    ways: tuple[Way, ...] = ("ours", "torch")
    for way in ways:
        peaks = []
        for rows in (sizes.small_rows // 2, sizes.small_rows):
            _forget_compiled()
            peaks.append(_peak_of_steps(way, sizes.small, rows, record))
        a_row = (peaks[1] - peaks[0]) / (sizes.small_rows - sizes.small_rows // 2)
        largest[way] = sizes.small_rows + (room - peaks[1]) / a_row
    shown = {name: f"{rows:,.0f} rows, extrapolated" for name, rows in largest.items()}
    record.row("E3 memory", label, shown["ours"], shown["torch"], largest["ours"] / largest["torch"], expected=1.6)


def _peak_of_steps(way: Way, preset: Preset, rows: int, record: Record) -> int:
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(record.device)
    batch = gpt.synthetic_batch(preset, rows, 0, record.device)
    training = Training(preset, way, record.ours, record.device)
    training.step(batch)
    torch.cuda.reset_peak_memory_stats(record.device)
    training.step(batch)
    return torch.cuda.max_memory_allocated(record.device) - before


def _compilation(record: Record, sizes: Sizes) -> None:
    label = _label(sizes.plain, sizes.small_rows)
    if record.device.type != "cuda":
        for goal in ("E7 breaks", "E7 recompiles"):
            record.row(goal, label, reason="compilation is not rehearsed")
        return
    _forget_compiled()
    counters.clear()
    batches = _batches(sizes.plain, sizes.small_rows, record.device, sizes.mean_document)  # other documents each step
    model = GPT(sizes.plain, gpt.our_parts(record.ours)).to(record.device)
    steps, optimizer = torch.compile(model, dynamic=False), gpt.make_optimizer(model)
    for number in range(3):
        gpt.train_step(steps, optimizer, batches[number])
    graphs = counters["stats"]["unique_graphs"]
    for number in range(3, 10):
        gpt.train_step(steps, optimizer, batches[number % BATCHES])
    breaks = sum(counters["graph_break"].values())
    record.row("E7 breaks", label, str(breaks), "", float(breaks))
    more = counters["stats"]["unique_graphs"] - graphs
    record.row("E7 recompiles", label, str(more), "", float(more))


def _trainer(record: Record, sizes: Sizes) -> None:
    """The same compiled model, the same batches, in Lightning's loop and in ours."""
    label = _label(sizes.plain, sizes.small_rows)
    try:
        # By name: kernels/ depends on torch and triton alone, and borrows Lightning only to measure its cost.
        lightning = importlib.import_module("lightning")
    except ImportError:
        for goal in ("E5", "E6"):
            record.row(goal, label, reason="lightning is not installed")
        return
    device = record.device
    batches = _batches(sizes.plain, sizes.small_rows, device)
    _forget_compiled()
    compiled, _ = _model(sizes.plain, gpt.our_parts(record.ours), device)
    loops: dict[str, PlainLoop | TrainerLoop] = {
        "plain": PlainLoop(compiled, device),
        "trainer": TrainerLoop(lightning, compiled, device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(1 if record.rehearsal else 3):
        for name, loop in loops.items():
            seconds[name].append(loop.seconds(batches, sizes.steps))
    syncs: dict[str, float] = {}
    if device.type == "cuda":
        syncs = {name: loop.syncs(batches, sizes.steps) for name, loop in loops.items()}
    times = {name: Spread.of([1e3 * one / sizes.steps for one in found]) for name, found in seconds.items()}
    config: dict[str, object] = {**vars(sizes.plain), "rows": sizes.small_rows, "steps": sizes.steps}
    for name, spread in times.items():
        record.keep("end_to_end", name, "loop", "milliseconds", batches[0].tokens.numel(), spread, config)
    record.ratio("E5", label, times["trainer"], times["plain"])
    if syncs:
        record.row("E6", label, f"{syncs['trainer']:g}", f"{syncs['plain']:g}", syncs["trainer"] - syncs["plain"])
    else:
        record.row("E6", label, reason="needs CUDA")


class PlainLoop:
    """``steps`` optimizer steps after three to warm up, in nothing but a for loop."""

    def __init__(self, compiled: Callable[..., Tensor], device: torch.device) -> None:
        self.compiled, self.device = compiled, device

    def seconds(self, batches: list[Batch], steps: int) -> float:
        optimizer = self._warm(batches)
        _wait(self.device)
        start = perf_counter()
        self._run(optimizer, batches, steps)
        _wait(self.device)
        return perf_counter() - start

    def syncs(self, batches: list[Batch], steps: int) -> float:
        optimizer = self._warm(batches)
        with _profiler() as profile:
            self._run(optimizer, batches, steps)
        return _count_syncs(profile) / steps

    def _warm(self, batches: list[Batch]) -> torch.optim.Optimizer:
        # A Trainer leaves the model on the CPU when it is done.
        optimizer = gpt.make_optimizer(_module(self.compiled).to(self.device))
        self._run(optimizer, batches, 3)
        return optimizer

    def _run(self, optimizer: torch.optim.Optimizer, batches: list[Batch], steps: int) -> None:
        for number in range(steps):
            gpt.train_step(self.compiled, optimizer, batches[number % len(batches)])


class TrainerLoop:
    """The same steps in Lightning's Trainer, without logger, bar and checkpoints."""

    def __init__(self, lightning: Any, compiled: Callable[..., Tensor], device: torch.device) -> None:
        self.lightning, self.compiled, self.device = lightning, compiled, device

    def seconds(self, batches: list[Batch], steps: int) -> float:
        marks: list[float] = []

        def mark() -> None:
            _wait(self.device)
            marks.append(perf_counter())

        self._fit(batches, steps, mark, mark)
        return marks[1] - marks[0]

    def syncs(self, batches: list[Batch], steps: int) -> float:
        profile = _profiler()
        self._fit(batches, steps, profile.start, profile.stop)
        return _count_syncs(profile) / steps

    def _fit(self, batches: list[Batch], steps: int, begin: Callable[[], None], end: Callable[[], None]) -> None:
        lightning, loss_of = self.lightning, self.compiled
        model = _module(loss_of).to(self.device)
        optimizer = gpt.make_optimizer(model)

        class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return optimizer

            def training_step(self, batch: Batch, _: int) -> Tensor:
                return loss_of(batch.tokens, batch.targets, batch.doc_start, batch.doc_end)

            def transfer_batch_to_device(self, batch: Batch, *_: object) -> Batch:
                return batch  # it is there

        class Marks(lightning.Callback):  # type: ignore[misc, name-defined]
            def on_train_batch_start(self, *_: object) -> None:
                if _[-1] == 3:
                    begin()

            def on_train_batch_end(self, *_: object) -> None:
                if _[-1] == steps + 2:
                    end()

        class Rotation(torch.utils.data.IterableDataset[Batch]):
            def __iter__(self) -> Iterator[Batch]:
                return (batches[number % len(batches)] for number in range(steps + 3))

        cuda = self.device.type == "cuda"
        trainer = lightning.Trainer(
            max_steps=steps + 3,
            accelerator="gpu" if cuda else "cpu",
            devices=1,
            precision="bf16-mixed" if cuda else "32-true",
            callbacks=[Marks()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(), torch.utils.data.DataLoader(Rotation(), batch_size=None))


def _module(compiled: Callable[..., Tensor]) -> torch.nn.Module:
    module = getattr(compiled, "_orig_mod", None) or compiled
    assert isinstance(module, torch.nn.Module)
    return module


def _forget_compiled() -> None:
    """Every model shares the code of ``GPT.forward``, and Dynamo keeps eight versions of one code at most."""
    torch._dynamo.reset()
    gc.collect()


def _profiler() -> Any:
    return torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    )


def _count_syncs(profile: Any) -> int:
    found = Counter(event.name for event in profile.events())
    return sum(count for name, count in found.items() if name in SYNCS)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _speed(record: Record, shape: Preset, batch: Batch, time: Spread) -> str:
    """Tokens a second and MFU, each with its denominator."""
    tokens = batch.tokens.numel()
    tflops = shape.flops_per_token * tokens / time.median / 1e9
    measured = product_tflops(record)
    here = f", {100 * tflops / measured:.1f}% of {measured:.0f} (torch.mm here)" if measured else ""
    return f"{tokens / time.median:,.0f}k tok/s, MFU {100 * tflops / DATASHEET_TFLOPS:.1f}% of {DATASHEET_TFLOPS}{here}"


def product_tflops(record: Record) -> float:
    """What a large bf16 product of random data reaches on this device, TFLOP/s; 0 in a rehearsal."""
    if record.rehearsal:
        return 0.0
    size = 8192
    left, right = (torch.randn(size, size, device=record.device, dtype=torch.bfloat16) for _ in range(2))
    programs = [Program("mm", lambda _: left @ right)]
    time = record.measure("end_to_end", "ceiling", size, {"size": size}, programs)["mm"]
    return 0.0 if isinstance(time, Failed) else 2 * size**3 / time.median / 1e9


def _label(shape: Shape | Preset, rows: int) -> str:
    return f"{shape.parameters / 1e6:,.0f}M T{shape.context} rows {rows}"
