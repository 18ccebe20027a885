"""The fastest implementation of attention for each case, as JSON: what dispatch reads instead of guessing.

``{"sm90": {"bfloat16": {"64": {"plain": {"1024": "sdpa_flash", ...}, "documents": {...}}}}, "measured": {...}}``

The form of ``components/model/kernel_choice.json``: a length counts for all rows up to it, the longest also beyond.
Times are forward and backward together, for 32k tokens and one KV head a query head; documents have a mean of an eighth
of the row. ``sdpa`` is PyTorch with a dense mask.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch

from kernels.bench.attention import INPUT_SETS, Provider, compare, make_inputs, ours, plain_providers, sdpa_mask
from kernels.bench.record import Record, describe
from kernels.bench.sections import Section
from kernels.bench.shapes import AttentionShape as Shape
from kernels.bench.timing import Spread

Choices = dict[str, dict[str, dict[str, dict[str, str]]]]  # dtype, head dimension, kind, length: name


def sections(record: Record) -> list[Section]:
    """A section for each case of the table."""
    return [
        Section("choices", "attention", f"attention {shape} {shape.dtype}", (), partial(_measured, shape=shape))
        for shape in _cases(record)
    ]


def table(cases: Iterable[dict[str, str]]) -> Choices:
    """The table of all cases in which anything runs."""
    choices: Choices = {}
    for case in cases:
        kinds = choices.setdefault(case["dtype"], {}).setdefault(case["head_dim"], {})
        kinds.setdefault(case["kind"], {})[case["seq"]] = case["fastest"]
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


def _measured(record: Record, shape: Shape) -> dict[str, str]:
    """The fastest of one case; raises ``RuntimeError`` if nothing runs."""
    sets = [make_inputs(shape, seed, record.device) for seed in range(INPUT_SETS)]
    providers: dict[str, Provider] = plain_providers(record.ours)
    if shape.mean_document:
        providers = {record.ours: ours(record.ours, documents=True), "sdpa": sdpa_mask(sets[0])}
    times = compare(record, shape, "full", providers, sets)
    ran = {name: time.median for name, time in times.items() if isinstance(time, Spread)}
    if not ran:
        raise RuntimeError("nothing runs")
    return {
        "dtype": str(shape.dtype).removeprefix("torch."),
        "head_dim": str(shape.head_dim),
        "kind": "documents" if shape.mean_document else "plain",
        "seq": str(shape.seq),
        "fastest": min(ran, key=lambda name: ran[name]),
    }


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
