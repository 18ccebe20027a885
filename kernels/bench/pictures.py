"""Which charts a run draws, from its measurements."""

from __future__ import annotations

from pathlib import Path

from kernels.bench.charts import write_bars, write_lines
from kernels.bench.record import Measurement, Record


def write(record: Record, folder: Path) -> list[str]:
    """Draws what there is something to draw of; returns the names of the files."""
    names: list[str] = []
    for mode in ("forward", "full"):
        plain = [one for one in _of(record, "attention", mode, "TFLOP/s") if not one.config["mean_document"]]
        lines: dict[str, dict[float, float]] = {}
        for one in plain:
            if record.rehearsal or one.config["heads"] == one.config["kv_heads"]:
                lines.setdefault(f"{one.provider} D{one.config['head_dim']}", {})[one.x] = one.spread.median
        if lines:
            names.append(f"attention-{mode}.svg")
            write_lines(folder / names[-1], f"Causal attention, {mode}", "TFLOP/s over tokens a row", lines)
    packed = [one for one in _of(record, "attention", "full", "milliseconds") if one.config.get("mean_document")]
    groups = {"attention-documents": ("Packed documents, forward and backward", packed, "head_dim", "D")}
    losses = _of(record, "cross_entropy", "full", "milliseconds")
    groups["cross-entropy"] = ("Head and loss, forward and backward", losses, "width", "D")
    steps = [one for one in _of(record, "end_to_end", None, "milliseconds") if one.mode.startswith("step")]
    groups["end-to-end"] = ("One optimizer step", steps, "layers", "layers ")
    for name, (title, found, key, prefix) in groups.items():
        bars: dict[str, dict[str, float]] = {}
        for one in found:
            label = f"{one.x:g} {prefix}{one.config[key]}"
            mode = one.mode.removeprefix("step").removeprefix("_")
            label += f" {mode}" if name == "end-to-end" and mode else ""
            bars.setdefault(label, {})[one.provider] = one.spread.median
        if bars:
            names.append(f"{name}.svg")
            write_bars(folder / names[-1], title, "milliseconds, less is better", bars)
    return names


def _of(record: Record, kernel: str, mode: str | None, metric: str) -> list[Measurement]:
    found = [one for one in record.measurements if one.kernel == kernel and one.metric == metric]
    return [one for one in found if mode is None or one.mode == mode]
