"""Data sets of the Hugging Face hub: ``hf://dataset[:config][:split]``, or a folder on disk laid out like one."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from components.core.atomic import replacing
from components.core.errors import InputError, ServiceError
from components.core.identity import digest_file, digest_json
from components.data.text_field import TextField

HUB_PREFIX = "hf://"


@dataclass(frozen=True)
class HubDataset:
    """A data set by its name on the hub (or a local folder), its configuration and its split."""

    name: str
    config: str
    split: str

    @classmethod
    def parse(cls, source: str) -> "HubDataset":
        """Read ``hf://dataset[:config][:split]``; one part after the name is the configuration."""
        name, *rest = source.removeprefix(HUB_PREFIX).split(":")
        if not name or len(rest) > 2:
            raise InputError(f"source {source} cannot be read: write {HUB_PREFIX}dataset[:config][:split]")
        config, split = [*rest, "", ""][:2]
        return cls(name, config, split or "train")


def fingerprint_of_dataset(source: str) -> str:
    """Revision of the data set on the hub, or the digest of a local one's files."""
    dataset = HubDataset.parse(source)
    folder = Path(dataset.name)
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return "sha256:" + digest_json({path.relative_to(folder).as_posix(): digest_file(path) for path in files})
    _library(source)
    from huggingface_hub import HfApi  # comes with the extra

    try:
        return f"revision:{HfApi().dataset_info(dataset.name).sha}"
    except Exception as error:
        raise _explained(source, error) from error


def fetch_dataset(source: str, text_field: str, path: Path, report: Callable[[float, str], None]) -> None:
    """Stream the texts of a data set to ``path``, one JSON object ``{"text": ...}`` a line."""
    dataset, field = HubDataset.parse(source), TextField.parse(text_field)
    datasets = _library(source)
    try:
        rows = datasets.load_dataset(dataset.name, dataset.config or None, split=dataset.split, streaming=True)
    except Exception as error:
        raise _explained(source, error) from error
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for number, row in enumerate(_rows(source, rows), 1):
            if lacking := [name for name in field.names if name not in row]:
                raise InputError(
                    f"source {source} has no column {lacking[0]!r}; it has {sorted(row)}. Set data.text_field"
                )
            file.write(json.dumps({"text": _text(field, row)}, ensure_ascii=False) + "\n")
            if number % 10_000 == 0:
                report(0.0, f"{source}: {number} rows")


def _text(field: TextField, row: Mapping[str, Any]) -> Any:
    """The document; what is no text is passed on as it is, and whoever reads it says so."""
    odd = [row[name] for name in field.names if not isinstance(row[name], str)]
    return odd[0] if odd else field.text(row)


def _rows(source: str, rows: Any) -> Any:
    try:
        yield from rows
    except Exception as error:
        raise _explained(source, error) from error


def _library(source: str) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"source {source} needs the Hugging Face datasets library: install the extra with "
            "`pip install 'lacewing[hub]'`"
        ) from error
    return datasets  # type: ignore[no-any-return]


def _explained(source: str, error: Exception) -> InputError | ServiceError:
    """The library raises dozens of classes; the user only needs to know whether the hub was reached."""
    names = {kind.__name__ for kind in type(error).__mro__}
    unreachable = {
        "ConnectionError",
        "ConnectError",
        "OfflineModeIsEnabled",
        "TimeoutException",
        "LocalEntryNotFoundError",
    }
    if names & unreachable:
        return ServiceError(
            f"source {source} cannot be read: the Hugging Face hub was not reached ({error}). Check the network "
            "and HF_HUB_OFFLINE, or give local files instead."
        )
    return InputError(f"source {source} cannot be read: {type(error).__name__}: {error}")
