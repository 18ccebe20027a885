"""Goals A1 to A9: causal attention with and without packed documents, beside the kernels that PyTorch brings.

All providers take ``[B, T, H, D]`` and give it back, so that whoever needs another layout pays for it. FLOPs are
counted as ``4 B H T^2 D`` forward, halved by causality, and 3.5 times that with backward. Documents never change a
provider's count: TFLOP/s then show the work that was skipped.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.attention import attention
from kernels.bench import estimates
from kernels.bench.record import Record
from kernels.bench.sections import Section
from kernels.bench.shapes import AttentionShape as Shape
from kernels.bench.timing import Failed, Program, Spread, reason_of
from kernels.documents import doc_bounds

LAYERS = 12  # a block mask is made once a step and used by every layer
INPUT_SETS = 3
FORWARD_FACTOR, FULL_FACTOR = 1.0, 3.5


@dataclass(frozen=True)
class Inputs:
    """One set of inputs with the metadata that the providers want in their own forms."""

    query: Tensor
    key: Tensor
    value: Tensor
    upstream: Tensor
    boundary: Tensor
    doc_start: Tensor
    doc_end: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.query, self.key, self.value


Provider = Callable[[Inputs], Tensor]


def boundaries(shape: Shape, seed: int, device: torch.device) -> Tensor:
    """``True`` at every first token of a document: lengths equal, or exponential with the wanted mean."""
    generator = torch.Generator().manual_seed(seed)
    boundary = torch.zeros(shape.batch, shape.seq, dtype=torch.bool)
    boundary[:, 0] = True
    if shape.mean_document:
        if shape.equal_documents:
            boundary[:, :: shape.mean_document] = True
        else:
            lengths = torch.empty(shape.batch, shape.seq).exponential_(1 / shape.mean_document, generator=generator)
            starts = lengths.clamp(min=1).cumsum(1).long()
            for row, found in zip(boundary, starts, strict=True):
                row[found[found < shape.seq]] = True
    return boundary.to(device)


def make_inputs(shape: Shape, seed: int, device: torch.device) -> Inputs:
    """Normal random inputs; the documents depend on the shape alone, so that block masks can be made once."""
    generator = torch.Generator(device).manual_seed(seed)

    def drawn(heads: int, grad: bool) -> Tensor:
        sizes = (shape.batch, shape.seq, heads, shape.head_dim)
        values = torch.randn(sizes, generator=generator, device=device, dtype=torch.float32).to(shape.dtype)
        return values.requires_grad_(grad)

    boundary = boundaries(shape, 0, device)
    heads = (drawn(shape.heads, True), drawn(shape.kv_heads, True), drawn(shape.kv_heads, True))
    return Inputs(*heads, drawn(shape.heads, False), boundary, *doc_bounds(boundary))


def ours(impl: str, documents: bool) -> Provider:
    """Our kernel."""

    def call(given: Inputs) -> Tensor:
        bounds = (given.doc_start, given.doc_end) if documents else (None, None)
        return attention(*given.leaves, *bounds, impl=impl)  # type: ignore[arg-type]

    return call


def sdpa(backend: SDPBackend) -> Provider:
    """PyTorch's attention, pinned to one backend; causal, no documents."""

    def call(given: Inputs) -> Tensor:
        with sdpa_kernel([backend]):
            return _sdpa(given, is_causal=True)

    return call


def sdpa_mask(example: Inputs) -> Provider:
    """PyTorch's attention with the dense mask that documents need there; the mask is made once, untimed."""
    mask = document_mask(example.doc_start)[:, None]
    return partial(_sdpa, attn_mask=mask)


def document_mask(doc_start: Tensor) -> Tensor:
    """``[B, T, T]``: may query i see key j? Causal and within the document."""
    position = torch.arange(doc_start.shape[1], device=doc_start.device)
    return (position[None, :] <= position[:, None]) & (position[None, None, :] >= doc_start[:, :, None])


def flex(mask: Any) -> Provider:
    """FlexAttention, compiled on a GPU."""

    def call(given: Inputs) -> Tensor:
        query, key, value = (one.transpose(1, 2) for one in given.leaves)
        grouped = query.shape[1] != key.shape[1]
        mixed: Tensor = _flex(query.is_cuda)(query, key, value, block_mask=mask, enable_gqa=grouped)
        return mixed.transpose(1, 2)

    return call


def block_mask(doc_start: Tensor) -> Any:
    """FlexAttention's mask for these documents."""

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key >= doc_start[row, query])

    batch, seq = doc_start.shape
    return _block_mask_maker(doc_start.is_cuda)(visible, batch, None, seq, seq, device=str(doc_start.device))


def varlen(example: Inputs) -> Provider:
    """``varlen_attn`` on the documents end to end.

    Where it knows no groups (torch < 2.12), keys and values are repeated, as its caller would have to.
    """
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = _ends(example)
    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}

    def call(given: Inputs) -> Tensor:
        query, key, value = (one.flatten(0, 1) for one in given.leaves)
        group = query.shape[1] // key.shape[1]
        options = dict(causal)
        if group > 1 and "enable_gqa" in known:
            options["enable_gqa"] = True
        elif group > 1:
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        mixed: Tensor = varlen_attn(query, key, value, ends, ends, longest, longest, **options)  # type: ignore[assignment]
        return mixed.view(given.query.shape)

    return call


def flash3() -> Provider:
    """FlashAttention-3 on whole rows. Raises ``ImportError`` where its wheel is missing."""
    function = importlib.import_module("flash_attn_interface").flash_attn_func

    def call(given: Inputs) -> Tensor:
        return _only(function(*given.leaves, causal=True))

    return call


def flash3_varlen(example: Inputs) -> Provider:
    """FlashAttention-3 on the documents end to end. Raises ``ImportError`` where its wheel is missing."""
    function = importlib.import_module("flash_attn_interface").flash_attn_varlen_func
    ends, longest = _ends(example)

    def call(given: Inputs) -> Tensor:
        query, key, value = (one.flatten(0, 1) for one in given.leaves)
        return _only(function(query, key, value, ends, ends, longest, longest, causal=True)).view(given.query.shape)

    return call


def _only(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The mixed values; some versions also give the logsumexp."""
    return result[0] if isinstance(result, tuple) else result


def _ends(example: Inputs) -> tuple[Tensor, int]:
    """Where the documents of all rows end, one after the other, and the length of the longest."""
    starts = example.boundary.flatten().nonzero()[:, 0]
    ends = torch.cat([starts, starts.new_tensor([example.boundary.numel()])]).int()
    return ends, int((ends[1:] - ends[:-1]).max())


def program(name: str, provider: Provider, sets: Sequence[Inputs], mode: str) -> Program:
    """The provider in one mode (forward, backward, full) on rotated inputs; names the program after the provider."""

    def chosen(number: int) -> Inputs:
        return sets[number % len(sets)]

    def forward_then_backward(given: Inputs) -> object:
        return torch.autograd.grad(provider(given), given.leaves, given.upstream)

    def backward(ready: tuple[Inputs, Tensor]) -> object:
        return torch.autograd.grad(ready[1], ready[0].leaves, ready[0].upstream)

    if mode == "forward":
        return Program(name, provider, chosen)
    if mode == "backward":
        return Program(name, backward, lambda number: (chosen(number), provider(chosen(number))))
    return Program(name, forward_then_backward, chosen)


def compare(
    record: Record, shape: Shape, mode: str, providers: dict[str, Provider], sets: Sequence[Inputs]
) -> dict[str, Spread | Failed]:
    """Times the providers in turns; times go to the CSV file, TFLOP/s to the charts."""
    programs = [program(name, provider, sets, mode) for name, provider in providers.items()]
    times = record.measure("attention", mode, shape.seq, shape.config, programs)
    factor = {"forward": FORWARD_FACTOR, "full": FULL_FACTOR}.get(mode, FULL_FACTOR - FORWARD_FACTOR)
    for name, time in times.items():
        if isinstance(time, Spread):
            flops = shape.forward_flops * factor
            speed = Spread(*(flops / one / 1e9 for one in (time.median, time.high, time.low)))
            record.keep("attention", name, mode, "TFLOP/s", shape.seq, speed, shape.config)
    return times


def sections(record: Record) -> list[Section]:
    """All attention goals that are times or memory (errors: ``correctness``); packed documents, head 64, first."""
    plain = ("A1", "A2", "A3 flash", "A3 cudnn", "A3 flash3", "A3 flex", "A9")
    kinds = [
        (document_shapes(record), "", ("A4", "A5", "A5 flash3"), _documents),
        (skipping_shapes(record), ", documents against none", ("A6 equal", "A6 random"), _skipping),
        (plain_shapes(record), "", plain, _plain),
    ]
    return [
        Section("goals", "attention", f"attention {shape}{what}", goals, partial(run, shape=shape))
        for shapes, what, goals, run in kinds
        for shape in shapes
    ]


def _plain(record: Record, shape: Shape) -> None:
    sets = [make_inputs(shape, seed, record.device) for seed in range(INPUT_SETS)]
    makers: dict[str, Callable[[], Provider]] = {
        **{name: partial(_same, provider) for name, provider in plain_providers(record.ours).items()},
        "flash3": flash3,
        "flex": lambda: flex(block_mask(sets[0].doc_start)),
    }
    providers, missing = _made(makers)
    own = record.ours
    compared = {"forward": {"A1": "sdpa_flash"}, "backward": {"A2": "sdpa_flash"}}
    compared["full"] = {
        f"A3 {name.removeprefix('sdpa_')}": name for name in ("sdpa_flash", "sdpa_cudnn", "flash3", "flex")
    }
    for mode, baselines in compared.items():
        times = {**missing, **compare(record, shape, mode, providers, sets)}
        for goal, baseline in baselines.items():
            if goal != "A1" or shape.seq >= 2048 or record.rehearsal:
                expected = estimates.attention_speed_up(shape, baseline, mode)  # type: ignore[arg-type]
                record.ratio(goal, str(shape), times[own], times[baseline], expected=expected)
    peaks = [
        record.peak("attention", "full", shape.seq, shape.config, program(name, providers[name], sets, "full"))
        for name in (own, "sdpa_flash")
    ]
    record.share("A9", str(shape), peaks[0], peaks[1], expected=1.0)


def plain_providers(impl: str) -> dict[str, Provider]:
    """Who can do causal attention without documents. The names are those of the table of choices."""
    return {
        impl: ours(impl, documents=False),
        "sdpa_flash": sdpa(SDPBackend.FLASH_ATTENTION),
        "sdpa_cudnn": sdpa(SDPBackend.CUDNN_ATTENTION),
    }


def _same(provider: Provider) -> Provider:
    return provider


def _made(makers: dict[str, Callable[[], Provider]]) -> tuple[dict[str, Provider], dict[str, Spread | Failed]]:
    """Those that can be made here, and why the others cannot."""
    providers: dict[str, Provider] = {}
    missing: dict[str, Spread | Failed] = {}
    for name, maker in makers.items():
        try:
            providers[name] = maker()
        except Exception as error:  # a baseline that this machine lacks must not end the table
            missing[name] = Failed(reason_of(error))
    return providers, missing


def document_makers(impl: str, example: Inputs) -> dict[str, Callable[[], Provider]]:
    """Who can do packed documents, ours first."""
    return {
        impl: lambda: ours(impl, documents=True),
        "flex": lambda: flex(block_mask(example.doc_start)),
        "varlen": lambda: varlen(example),
        "flash3": lambda: flash3_varlen(example),
        "sdpa_mask": lambda: sdpa_mask(example),
    }


def _documents(record: Record, shape: Shape) -> None:
    sets = [make_inputs(shape, seed, record.device) for seed in range(INPUT_SETS)]
    example, own = sets[0], record.ours
    providers, missing = _made(document_makers(own, example))
    times = {**missing, **compare(record, shape, "full", providers, sets)}
    mask = record.measure("attention", "mask", shape.seq, shape.config, [_mask_program(example)])["block_mask"]
    once_a_step = times["flex"]
    if isinstance(once_a_step, Spread) and isinstance(mask, Spread):
        once_a_step = once_a_step + mask.times(1 / LAYERS)
    note = f", of it {_milliseconds(mask, 1 / LAYERS)} mask"
    expected = estimates.documents_speed_up(shape, "flex")
    record.ratio("A4", str(shape), times[own], once_a_step, note=note, expected=expected)
    for goal, baseline in (("A5", "varlen"), ("A5 flash3", "flash3")):
        expected = estimates.documents_speed_up(shape, baseline)  # type: ignore[arg-type]
        record.ratio(goal, str(shape), times[own], times[baseline], expected=expected)


def _mask_program(example: Inputs) -> Program:
    return Program("block_mask", lambda _: block_mask(example.doc_start))


def _milliseconds(time: Spread | Failed, factor: float) -> str:
    return "?" if isinstance(time, Failed) else f"{time.median * factor:.3f} ms"


def _skipping(record: Record, shape: Shape) -> None:
    mean = shape.seq // 8
    packed = {"A6 equal": True, "A6 random": False}
    programs = []
    for name, equal in packed.items():
        with_documents = replace(shape, mean_document=mean, equal_documents=equal)
        sets = [make_inputs(with_documents, seed, record.device) for seed in range(INPUT_SETS)]
        programs.append(program(name, ours(record.ours, documents=True), sets, "full"))
    programs.append(program("dense", ours(record.ours, documents=False), sets, "full"))
    times = record.measure("attention", "full", shape.seq, {**shape.config, "compared": "documents"}, programs)
    for goal, equal in packed.items():
        expected = estimates.skipping_speed_up(replace(shape, mean_document=mean, equal_documents=equal))
        record.ratio(goal, f"{shape} docs {mean}", times[goal], times["dense"], expected=expected)


def plain_shapes(record: Record) -> list[Shape]:
    if record.rehearsal:
        return [Shape(1, 64, 2, 1, 16, torch.float32)]
    lengths = [2048, 8192] if record.quick else [1024, 2048, 4096, 8192]
    heads = [(12, 12, 64), (16, 16, 128)] if record.quick else [(12, 12, 64), (12, 3, 64), (16, 16, 128), (16, 4, 128)]
    return [Shape(32768 // seq, seq, *sizes) for sizes in heads for seq in lengths]


def document_shapes(record: Record) -> list[Shape]:
    if record.rehearsal:
        return [Shape(1, 64, 2, 1, 16, torch.float32, mean_document=16)]
    packed = [(4096, 512), (8192, 1024)]
    heads = [(12, 3, 64), (16, 4, 128)]
    return [Shape(32768 // seq, seq, *sizes, mean_document=mean) for sizes in heads for seq, mean in packed]


def skipping_shapes(record: Record) -> list[Shape]:
    if record.rehearsal:
        return [Shape(1, 64, 1, 1, 16, torch.float32)]
    return [Shape(4, 8192, 12, 12, 64), Shape(4, 8192, 16, 16, 128)]


def _sdpa(given: Inputs, **options: Any) -> Tensor:
    query, key, value = (one.transpose(1, 2) for one in given.leaves)
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, enable_gqa=grouped, **options).transpose(1, 2)


@cache
def _flex(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    function: Callable[..., Any] = flex_attention
    return torch.compile(function, dynamic=False) if compiled else function


@cache
def _block_mask_maker(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import create_block_mask

    maker: Callable[..., Any] = create_block_mask
    return torch.compile(maker, dynamic=False) if compiled else maker
