"""``lacewing export``: a registered model as files for another engine."""

from collections.abc import Iterator
from typing import NoReturn

from tqdm import tqdm

from components.data.prepared import PreparedData
from components.deployment.export.config import ExportConfig
from components.model.bundle import Bundle
from conf.schema import ExportCommandConfig
from flows import console
from flows.lineage import lineage
from flows.promotion import Registry
from flows.workspace import make_workspace

Row = tuple[str, str]


def export(config: ExportCommandConfig) -> int:
    """Write ``config.model`` to ``config.into`` and print what it came to."""
    make_workspace()
    bundle = Bundle.open(Registry(config.tracking).resolve(config.model).folder)
    prepared = _data_of(bundle)
    if config.documents and prepared is None:
        console.warn("the data of this model are not in the workspace: what rounding costs is not measured")
    console.show_table("exported", list(_rows(config, bundle, prepared)))
    return 0


def _data_of(bundle: Bundle) -> PreparedData | None:
    """The data that the model was trained on, if the workspace holds them."""
    found = [each for each in lineage(bundle).artifacts() if each.stage in PreparedData.stages]
    return PreparedData.open(found[-1].folder) if found else None


def _rows(config: ExportCommandConfig, bundle: Bundle, prepared: PreparedData | None) -> Iterator[Row]:
    from components.deployment.export.export import export as write  # loads torch

    settings = ExportConfig.model_validate(config.model_dump(exclude={"tracking"}))
    with tqdm(total=1.0, desc="exporting", bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}") as bar:
        record = write(bundle, settings, prepared, lambda done: _move(bar, done))
    yield "model", f"{config.model} (bundle {bundle.key[:16]})"
    for name, file in record.files.items():
        yield "file", f"{config.into}/{name}, {file.bytes / 1e6:.1f} MB"
    yield "matrices", ", ".join(f"{count} in {precision}" for precision, count in record.matrices.items())
    if loss := record.loss:
        change = f"{loss.bits_per_byte:.4f} -> {loss.bits_per_byte_exported:.4f} ({loss.share:+.2%})"
        yield "bits per byte", f"{change}, {loss.documents} held-out documents"
    if record.format == "gguf":
        yield (
            "to run",
            f"llama-server --model {config.into}/{next(iter(record.files))} --logit-bias {record.call_id}-100",
        )


def _move(bar: "tqdm[NoReturn]", done: float) -> None:
    bar.update(done - bar.n)
