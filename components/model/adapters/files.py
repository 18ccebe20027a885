"""Adapters in PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``, for the exported model.

``peft.PeftModel.from_pretrained`` reads such a folder beside the model's own. ``base.json`` says which weights the
adapter belongs to. LoftQ's belongs to a quantised base, which lies in the folder ``base``.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise_tensors
from torch import Tensor

from components.core.atomic import write_bytes, write_json
from components.core.errors import ArtifactError
from components.core.records import read_object
from components.data.special_tokens import SpecialTokens
from components.model.adapters.adapter import Adapter, attached, frozen_weights, library_config, weights_digest
from components.model.adapters.config import ROLES, AdapterConfig, Kind
from components.model.adapters.unmerged import MOST, Unmerged, change, changed_rows, part_shapes
from components.model.checkpoint import differing, hugging_face_name, save_state, shapes_of
from components.model.transformer import Transformer

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
QUANTISED = "base"
PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."
_ENDS = {"embed_tokens": f"{_PREFIX}model.embed_tokens", "lm_head": f"{_PREFIX}lm_head"}
_ROWS = ".token_adapter.trainable_tokens_delta"
# Without effect on what the adapter computes: PEFT reads them when it makes an adapter, or not at all.
_FREE = {"peft_version", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "task_type"}
_FREE |= {"init_lora_weights", "init_ia3_weights", "loftq_config"}
_FREE |= {"trainable_token_indices"}  # read by itself


def write_adapter(adapter: Adapter, folder: Path, special: SpecialTokens) -> None:
    """Write an adapter that is not merged yet, each file atomically, its weights last.

    PiSSA's is written as a LoRA of twice the rank, which belongs to the model as it was. ``special``: of the model's
    tokenizer, for the quantised base that comes with LoftQ's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / CONFIG,
        _record(_written_as(adapter.config), {name: rows.ids.tolist() for name, rows in adapter.rows.items()}),
    )
    write_json(folder / BASE, {"weights": adapter.base, "name": adapter.model.config.name})
    if adapter.config.kind == "loftq":
        save_state(adapter.model.config, frozen_weights(adapter.model), folder / QUANTISED, special)
    tensors = {
        name: weight.detach().to("cpu", torch.float32).contiguous() for name, weight in _tensors(adapter).items()
    }
    write_bytes(folder / WEIGHTS, serialise_tensors(tensors, metadata={"format": "pt"}))


def write_and_merge(adapter: Adapter, folder: Path, special: SpecialTokens) -> None:
    """Write the adapter into ``folder``, then merge it into its model."""
    write_adapter(adapter, folder, special)
    adapter.merge()


def read_adapter(model: Transformer, folder: Path) -> Adapter:
    """Put the adapter in ``folder`` on ``model``, in place: to compute with, to merge, or to train further.

    Raises ``ArtifactError`` for a folder that is damaged, pickled, of a kind or shape that does not fit, or for another
    base; ``model`` is then as before.
    """
    config, tensors, ids = _read(model, folder)
    adapter = attached(model, config, ids)
    own = _by_peft_names(adapter)
    if fault := differing(shapes_of(own), shapes_of(tensors)):
        adapter.remove()
        raise _misfit(folder, fault)
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(tensors[name])
    model.eval()
    return adapter


def read_unmerged(model: Transformer, folder: Path) -> Unmerged:
    """The adapter in ``folder`` apart from ``model``, which stays as it is. PEFT need not be installed.

    Raises what ``read_adapter`` raises, and ``ArtifactError`` for weights that are not below ``MOST``.
    """
    config, tensors, ids = _read(model, folder)
    targeted = {name: weight for name, weight in _matrices(model) if name.rpartition(".")[2] in config.matrices}
    parts = {name: part_shapes(config, name.rpartition(".")[2], weight) for name, weight in targeted.items()}
    ends = [f"{end}{_ROWS}" for end in list(_ENDS.values())[: 1 if model.head is None else 2]] if ids else []
    expected = dict.fromkeys(ends, torch.Size((len(ids), model.config.width)))
    for name, shapes in parts.items():
        expected |= {_peft_name(f"{name}.{part}"): shape for part, shape in shapes.items()}
    if fault := differing(expected, shapes_of(tensors)):
        raise _misfit(folder, fault)
    _check_numbers(tensors, folder)
    changes = {
        name: change(config, weight, {part: tensors[_peft_name(f"{name}.{part}")].float() for part in parts[name]})
        for name, weight in targeted.items()
    }
    rows = [tensors[end].float() for end in ends] or [torch.empty(0, model.config.width)]
    return Unmerged(changes, changed_rows(model, ids, rows[0], rows[-1]))


def _read(model: Transformer, folder: Path) -> tuple[AdapterConfig, Mapping[str, Tensor], list[int]]:
    """What the files say of an adapter of ``model``: its settings, its tensors and its rows of the embedding."""
    config, ids = _read_config(folder / CONFIG)
    tensors = _read_tensors(folder)
    _check_base(model, folder)
    if unknown := [id for id in ids if id not in range(model.vocab_size)]:
        raise ArtifactError(f"{folder / CONFIG} trains the rows {unknown} of a vocabulary of {model.vocab_size}")
    if config.kind == "ia3" and config.special_rows:
        return config, _whole_as_rows(tensors, model, folder), list(range(model.vocab_size))
    return config, tensors, ids


def _matrices(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    return ((name.removesuffix(".weight"), weight) for name, weight in model.named_parameters() if weight.ndim == 2)


def _check_numbers(tensors: Mapping[str, Tensor], folder: Path) -> None:
    if large := [name for name, tensor in tensors.items() if not tensor.abs().amax() < MOST]:  # true for NaN as well
        raise ArtifactError(
            f"{folder / WEIGHTS}: {large[0]} holds numbers that are not below {MOST:g}: its training has diverged, or "
            "the file was altered"
        )


def _written_as(config: AdapterConfig) -> AdapterConfig:
    """The kind as which PEFT can load it on the base."""
    if config.kind == "pissa":
        return config.model_copy(update={"kind": "lora", "rank": 2 * config.rank, "alpha": 2 * config.alpha})
    return config.model_copy(update={"kind": "lora"}) if config.kind == "loftq" else config


def _record(config: AdapterConfig, rows: Mapping[str, list[int]]) -> dict[str, Any]:
    """``adapter_config.json``, with the names of the matrices in the exported model."""
    settings = library_config(config)
    settings.task_type, settings.inference_mode = "CAUSAL_LM", True
    record: dict[str, Any] = settings.to_dict()
    for name in ("target_modules", "feedforward_modules"):
        if name in record:
            record[name] = sorted(_HF_MATRICES[matrix] for matrix in record[name])
    if rows and config.kind == "ia3":  # whose format knows no rows: both ends are saved whole, tied or not
        record["modules_to_save"] = list(_ENDS)
    elif rows:
        record["trainable_token_indices"] = dict(rows) if len(rows) > 1 else next(iter(rows.values()))
    return record


def _tensors(adapter: Adapter) -> dict[str, Tensor]:
    """What is written: the adapter as PEFT can load it on its base."""
    tensors = _by_peft_names(adapter)
    for name, start in adapter.start.items():
        # scale * (B A - B0 A0) is one product: of B beside -B0, and A above A0.
        ours, negative = tensors[_peft_name(name)], "lora_B" in name
        tensors[_peft_name(name)] = torch.cat((ours, -start), dim=1) if negative else torch.cat((ours, start), dim=0)
    if adapter.rows and adapter.config.kind == "ia3":
        tensors = {name: weight for name, weight in tensors.items() if not name.endswith(_ROWS)}
        whole = (adapter.model.embedding.weight, adapter.model.output_weight.clone())
        tensors |= {f"{end}.weight": weight for end, weight in zip(_ENDS.values(), whole, strict=True)}
    return tensors


def _by_peft_names(adapter: Adapter) -> dict[str, Tensor]:
    """The adapter's weights, which share memory with the model."""
    rows = {f"{_ENDS[name]}{_ROWS}": each.rows for name, each in adapter.rows.items()}
    return {_peft_name(name): weight for name, weight in adapter.weights().items()} | rows


def _peft_name(name: str) -> str:
    """Name of an adapter's weight in PEFT's files, for one of ours: ``blocks.0.attention.query.lora_A.weight``."""
    block, index, part, matrix, rest = name.split(".", 4)
    outer = hugging_face_name(f"{block}.{index}.{part}.{matrix}.weight").removesuffix(".weight")
    return f"{_PREFIX}{outer}.{rest}"


def _hf_matrix(name: str) -> str:
    part = "attention" if name in ROLES["attention"] else "feed_forward"
    return hugging_face_name(f"blocks.0.{part}.{name}.weight").split(".")[-2]


_HF_MATRICES = {name: _hf_matrix(name) for name in ROLES["all"]}


def _read_config(path: Path) -> tuple[AdapterConfig, list[int]]:
    """What ``adapter_config.json`` describes, and which rows; refuses what it sets beyond that."""
    record = _read_record(path, "gives no adapter")
    kinds: Mapping[str, Kind] = {"IA3": "ia3", "LORA": "lora"}
    kind = kinds.get(str(record.get("peft_type")))
    if kind is None:
        raise ArtifactError(
            f"{path}: peft_type is {record.get('peft_type')!r}, but only {' and '.join(kinds)} are read"
        )
    ids = _one_set_of_rows(record, path)
    try:
        config = AdapterConfig(
            kind="rslora" if record.get("use_rslora") else "dora" if record.get("use_dora") else kind,
            rank=record.get("r", 1),
            alpha=record.get("lora_alpha", 1.0),
            dropout=record.get("lora_dropout", 0.0),
            targets=[_OURS.get(name, name) for name in record["target_modules"]],
            special_rows=bool(ids or record.get("modules_to_save")),
        )
    except (ValidationError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} describes no adapter that can be read here: {error}") from error
    known = _known(config)
    for name, value in record.items():
        if value and name not in _FREE and _unordered(value) != _unordered(known.get(name)):
            raise ArtifactError(f"{path} sets {name} to {value!r}, which cannot be read here")
    return config, ids


def _known(config: AdapterConfig) -> dict[str, Any]:
    """What a file that describes ``config`` may set, beside ``_FREE``; as PEFT has it, which need not be installed."""
    targets = [_HF_MATRICES[matrix] for matrix in config.matrices]
    if config.kind == "ia3":
        record: dict[str, Any] = {"peft_type": "IA3"}
        record["feedforward_modules"] = [each for each in targets if each == _HF_MATRICES["down"]]
        if config.special_rows:  # whose format knows no rows: both ends are saved whole, tied or not
            record["modules_to_save"] = list(_ENDS)
    else:
        record = {"peft_type": "LORA", "r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout}
        record |= {"use_rslora": config.kind == "rslora", "use_dora": config.kind == "dora", **_UNUSED}
    return {**record, "target_modules": targets}


_UNUSED = {"bias": "none", "megatron_core": "megatron.core", "qalora_group_size": 16}
"""What PEFT writes for methods that are not ours."""
_OURS = {theirs: ours for ours, theirs in _HF_MATRICES.items()}


def _unordered(value: Any) -> Any:
    """Lists are names here, and PEFT writes them in the order of a set."""
    return sorted(value) if isinstance(value, list) else value


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        found = (
            f": {PICKLED} would run code when read, so save the adapter again with safe_serialization=True"
            if (folder / PICKLED).is_file()
            else ": not an adapter, or an unfinished one"
        )
        raise ArtifactError(f"{folder} has no {WEIGHTS}{found}")
    try:
        return parse_tensors(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path} cannot be read as safetensors ({error}): it is truncated or altered") from error


def _check_base(model: Transformer, folder: Path) -> None:
    ours = weights_digest(model.state_dict())
    if not (folder / BASE).is_file():
        raise ArtifactError(
            f"{folder} has no {BASE}, which says whose adapter it is. If it was trained on this model, write "
            f'{{"weights": "{ours}"}} into that file'
        )
    record = _read_record(folder / BASE, "names no base")
    if record.get("weights") != ours:
        quantised = f"; its own quantised base is {folder / QUANTISED}" if (folder / QUANTISED).is_dir() else ""
        raise ArtifactError(
            f"the adapter in {folder} belongs to {record.get('name', 'a model')} with the weights "
            f"{str(record.get('weights'))[:16]}, and this is {model.config.name} with the weights {ours[:16]}: load "
            f"the model that it was trained on{quantised}"
        )


def _one_set_of_rows(record: Mapping[str, Any], path: Path) -> list[int]:
    """The rows that are trained, which must be the same for both ends of a model whose ends are apart."""
    given = record.get("trainable_token_indices") or []
    sets = list(given.values()) if isinstance(given, dict) else [given]
    if any(each != sets[0] for each in sets):
        raise ArtifactError(f"{path} trains other rows of the embedding than of the head, which cannot be read here")
    return list(sets[0])


def _misfit(folder: Path, fault: str) -> ArtifactError:
    return ArtifactError(
        f"{folder / WEIGHTS} does not hold the adapter that {CONFIG} describes for this model: {fault}"
    )


def _whole_as_rows(tensors: Mapping[str, Tensor], model: Transformer, folder: Path) -> dict[str, Tensor]:
    """Embeddings that were saved whole, as if all their rows had been trained."""
    given = dict(tensors)
    whole = {end: given.pop(f"{end}.weight") for end in _ENDS.values() if f"{end}.weight" in given}
    embedding, head = (whole.get(end) for end in _ENDS.values())
    if model.head is None and embedding is not None and head is not None:
        if not torch.equal(embedding, head):
            raise ArtifactError(f"{folder / WEIGHTS}: embed_tokens and lm_head differ, but they are one matrix here")
        del whole[_ENDS["lm_head"]]
    return given | {f"{end}{_ROWS}": weight for end, weight in whole.items()}


def _read_record(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        return read_object(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path.parent} has no {path.name}, so it {otherwise}") from error
