"""Writes a bundle's model for another engine, and measures on held-out text what the rounding of its weights costs.

The loss is that of our own likelihood loop on the weights that the engine will read, so it is the error of rounding and
nothing else; what an engine computes from them in its own arithmetic comes on top. It is kept with the export.
"""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file

from components.core.artifact import FileRecord
from components.core.atomic import replacing, write_json, write_text
from components.core.errors import InputError
from components.core.identity import digest_file
from components.core.records import read_object
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.deployment.bundle import FILES
from components.deployment.export.config import ExportConfig, Precision
from components.deployment.export.gguf_file import write_gguf
from components.deployment.export.onnx_file import write_onnx
from components.evaluation.heldout import chosen, held_out
from components.evaluation.likelihood import score_documents
from components.model.bundle import Bundle
from components.model.checkpoint import WEIGHTS
from components.model.llama_config import CONFIG
from components.model.transformer import Transformer

RECORD = "export.json"
ONNX = "model.onnx"
_DTYPES = {"f32": torch.float32, "f16": torch.float16}
_PRECISIONS = {"huggingface": tuple(_DTYPES), "onnx": ("f32",)}
_UNLIMITED_TOKENS = 1 << 62


class RoundingLoss(BaseModel):
    """What held-out text costs before and after rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    bits_per_byte: float
    """Of the model as it was."""
    bits_per_byte_exported: float
    """Of the weights that are in the export."""
    documents: int
    """How many held-out documents were read."""

    @property
    def share(self) -> float:
        """By which share the bits per byte grow."""
        return self.bits_per_byte_exported / self.bits_per_byte - 1


class ExportRecord(BaseModel):
    """Contents of ``export.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    bundle: str
    """Key of the bundle."""
    format: str
    precision: Precision
    """That was asked for."""
    matrices: dict[Precision, int]
    """How many matrices have which: rows that do not fit the blocks of a format take a finer one."""
    loss: RoundingLoss | None
    """``None`` if it was not measured."""
    call_id: int
    """Id of ``<CALL>``, which an engine without a helper must suppress."""
    files: dict[str, FileRecord]
    """Size and digest of every other file of the export."""


def export(
    bundle: Bundle,
    config: ExportConfig,
    prepared: PreparedData | None = None,
    report: Callable[[float], None] = lambda fraction: None,
) -> ExportRecord:
    """Write ``bundle`` to the folder ``config.into``.

    Arguments:
        prepared: whose held-out documents are read; without it the loss is not measured.
        report: called with the fraction done.

    Raises ``InputError`` for a folder that holds something else, a precision that the format has not, a tokenizer that
    cannot be written, and a library that is not installed; ``ArtifactError`` for an altered bundle.
    """
    into = _opened(Path(config.into), config)
    model, tokenizer = bundle.load(), bundle.tokenizer()
    read = _HeldOut.of(prepared, config.documents) if prepared and config.documents else None
    before = read.bits_per_byte(model, lambda done: report(done / 2)) if read else 0.0
    if config.format == "gguf":
        path = into / f"{bundle.name}-{config.precision}.gguf"
        matrices = write_gguf(model, bundle.folder, path, bundle.name, config.precision)
        paths = [path]
    elif config.format == "onnx":
        write_onnx(model, into / ONNX)
        _copy_files(bundle.folder, into, (WEIGHTS,))
        matrices = _counted(model, config.precision)
        paths = [into / name for name in (ONNX, *FILES) if name != WEIGHTS]
    else:
        matrices = _write_hugging_face(model, bundle.folder, into, config.precision)
        paths = [into / name for name in FILES]
    loss = None
    if read:
        after = read.bits_per_byte(model, lambda done: report(0.5 + done / 2))
        loss = RoundingLoss(bits_per_byte=before, bits_per_byte_exported=after, documents=len(read.documents))
    record = ExportRecord(
        bundle=bundle.key,
        format=config.format,
        precision=config.precision,
        matrices=dict(matrices),
        loss=loss,
        call_id=tokenizer.call_id,
        files={path.name: FileRecord(bytes=path.stat().st_size, sha256=digest_file(path)) for path in paths},
    )
    write_text(into / RECORD, record.model_dump_json(indent=2) + "\n")
    return record


def _opened(into: Path, config: ExportConfig) -> Path:
    if config.precision not in (allowed := _PRECISIONS.get(config.format, (config.precision,))):
        raise InputError(
            f"precision={config.precision} is for another format; format={config.format} has {' and '.join(allowed)}"
        )
    if into.exists() and not into.is_dir():
        raise InputError(f"into={into} is a file: name a folder")
    if into.is_dir() and any(into.iterdir()) and not (into / RECORD).is_file():
        raise InputError(f"into={into} holds other files, and no {RECORD} of an earlier export: name a new folder")
    into.mkdir(parents=True, exist_ok=True)
    return into


@dataclass(frozen=True)
class _HeldOut:
    """Documents that the model was not trained on."""

    documents: list[Int[np.ndarray, " tokens"]]
    n_bytes: Int[np.ndarray, " documents"]
    tokenizer: TextTokenizer

    @classmethod
    def of(cls, prepared: PreparedData, count: int) -> "_HeldOut":
        split = held_out(prepared.shards())
        indices = chosen(split.documents[:, 1], count, _UNLIMITED_TOKENS)
        documents = [split.document(index) for index in indices.tolist()]
        return cls(documents, split.documents[indices, 2], prepared.tokenizer())

    def bits_per_byte(self, model: Transformer, report: Callable[[float], None]) -> float:
        ids = self.tokenizer.end_of_text_id, self.tokenizer.call_id
        return score_documents(model, self.documents, self.n_bytes, *ids, report=report).bits_per_byte


@torch.no_grad()
def _write_hugging_face(model: Transformer, folder: Path, into: Path, precision: Precision) -> Counter[Precision]:
    """Copy the files of the bundle, the weights in their precision; ``model`` gets what is left of its weights."""
    dtype = _DTYPES[precision]
    _copy_files(folder, into, (WEIGHTS, CONFIG))
    config = read_object(folder / CONFIG) | {key: str(dtype).removeprefix("torch.") for key in ("dtype", "torch_dtype")}
    write_json(into / CONFIG, config)
    weights = {name: weight.to(dtype) for name, weight in load_file(folder / WEIGHTS).items()}
    with replacing(into / WEIGHTS) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    for weight in model.parameters():
        weight.copy_(weight.to(dtype))
    return _counted(model, precision)


def _copy_files(folder: Path, into: Path, but: tuple[str, ...]) -> None:
    for name in FILES:
        if name not in but:
            with replacing(into / name) as temporary:
                shutil.copyfile(folder / name, temporary)


def _counted(model: Transformer, precision: Precision) -> Counter[Precision]:
    """All matrices in one precision."""
    return Counter({precision: sum(weight.dim() == 2 for weight in model.parameters())})
