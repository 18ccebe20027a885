"""What the annotator's pipeline is, as a part of the key of the labels. Light: the flow's process computes it."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from components.core.inputs import folder_digest
from components.labelling.config import LabelConfig


def pipeline_fingerprint(cfg: LabelConfig) -> dict[str, str]:
    """What the annotator's pipeline is: the digest of its files, or the version of its package; empty for none."""
    if not cfg.pipeline or cfg.annotator in ("world", "capitals"):
        return {}
    if Path(cfg.pipeline).is_dir():
        return {"pipeline": folder_digest(Path(cfg.pipeline))}
    try:
        return {"pipeline": version(cfg.pipeline)}
    except PackageNotFoundError:
        return {}  # the stage says what is missing, and what to do
