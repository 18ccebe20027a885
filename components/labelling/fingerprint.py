"""What the annotator's pipeline is, as a part of the key of the labels. Light: the flow's process computes it."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from components.core.inputs import folder_digest
from components.data.sources import WORLD
from components.labelling.config import CONTROLS, LabelConfig
from components.labelling.installed import installed_pipeline


def pipeline_fingerprint(cfg: LabelConfig, sources: Sequence[str]) -> dict[str, str]:
    """What the annotator's pipeline is: the digest of its files, or the version of its package; empty for none.

    ``sources``: of the data. The closed world by itself needs no pipeline, so that an installed one is not asked.
    """
    if cfg.annotator in ("world", "capitals", "calculations"):
        return {}
    if not cfg.pipeline:
        asked = cfg.annotator == "auto" and cfg.rules not in CONTROLS and list(sources) != [WORLD]
        installed = installed_pipeline(cfg.rules) if asked else None
        return {"pipeline": f"{installed.name} {installed.version}"} if installed else {}
    if Path(cfg.pipeline).is_dir():
        return {"pipeline": folder_digest(Path(cfg.pipeline))}
    try:
        return {"pipeline": version(cfg.pipeline)}
    except PackageNotFoundError:
        return {}  # the stage says what is missing, and what to do
