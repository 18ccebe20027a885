"""The fastest implementation of attention for each case, as JSON: what dispatch reads instead of guessing.

``{"sm90": {"bfloat16": {"64": {"plain": {"1024": "sdpa_flash", ...}, "documents": {...}}}}, "measured": {...}}``

The form of ``components/model/kernel_choice.json``: a length counts for all rows up to it, the longest also beyond.
Times are forward and backward together, for 32k tokens and one KV head a query head; documents have a mean of an eighth
of the row. ``sdpa`` is PyTorch with a dense mask.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from kernels.bench.attention import INPUT_SETS, Provider, Shape, compare, make_inputs, ours, plain_providers, sdpa_mask
from kernels.bench.record import Record, describe
from kernels.bench.timing import Spread

Choices = dict[str, dict[str, dict[str, dict[str, str]]]]  # dtype, head dimension, kind, length: name


def measure(record: Record) -> Choices:
    """Times every candidate in every case; a case in which nothing runs is left out."""
    choices: Choices = {}
    for shape in _cases(record):
        with record.section(what=f"choices: attention {shape} {shape.dtype}"):
            fastest = _fastest(record, shape)
            if fastest:
                dtype = choices.setdefault(str(shape.dtype).removeprefix("torch."), {})
                kind = "documents" if shape.mean_document else "plain"
                dtype.setdefault(str(shape.head_dim), {}).setdefault(kind, {})[str(shape.seq)] = fastest
    return choices


def write(record: Record, choices: Choices, path: Path) -> None:
    """Replaces what ``path`` says about this capability and keeps the rest; ``measured`` tells of the latest."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    machine = describe(record.device)
    measured = {
        "gpu": machine["gpu"],
        "date": machine["timestamp"][:10],
        **{k: machine[k] for k in ("torch", "triton")},
    }
    how = "python -m kernels.bench --write-choices; forward and backward, 32k tokens, documents of an eighth of the row"
    found = {capability(record.device): choices, "measured": measured, "how_measured": how}
    path.write_text(json.dumps({**kept, **found}, indent=2) + "\n")


def capability(device: torch.device) -> str:
    """``sm90`` and the like; ``cpu`` in a rehearsal."""
    return "sm{}{}".format(*torch.cuda.get_device_capability(device)) if device.type == "cuda" else "cpu"


def _fastest(record: Record, shape: Shape) -> str | None:
    sets = [make_inputs(shape, seed, record.device) for seed in range(INPUT_SETS)]
    providers: dict[str, Provider] = plain_providers(record.ours)
    if shape.mean_document:
        providers = {record.ours: ours(record.ours, documents=True), "sdpa": sdpa_mask(sets[0])}
    times = compare(record, shape, "full", providers, sets)
    ran = {name: time.median for name, time in times.items() if isinstance(time, Spread)}
    return min(ran, key=lambda name: ran[name]) if ran else None


def _cases(record: Record) -> list[Shape]:
    if record.rehearsal:
        plain = Shape(1, 32, 1, 1, 16, torch.float32)
        return [plain, Shape(1, 32, 1, 1, 16, torch.float32, mean_document=8)]
    return [
        Shape(32768 // seq, seq, heads, heads, head_dim, dtype, mean_document=mean)
        for dtype in (torch.bfloat16, torch.float16)
        for heads, head_dim in ((12, 64), (16, 128))
        for seq in (1024, 2048, 4096, 8192)
        for mean in (None, seq // 8)
    ]
