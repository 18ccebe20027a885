"""From a folder to a version that can answer, at the start of a server and beside a version that answers."""

from pathlib import Path

from components.core.errors import ArtifactError
from components.deployment.adapters import AdapterSources
from components.deployment.bundle_files import check_files
from components.deployment.config import ServeConfig
from components.deployment.engine import Engine
from components.deployment.first_words import check_answers
from components.deployment.page.origin import Origin
from components.deployment.versions import Version
from components.deployment.wanted import Target


def loaded_version(cfg: ServeConfig, folder: Path, version: str = "", address: str = "") -> Version:
    """The bundle in ``folder``, ready to answer; raises what ``Engine`` raises.

    ``version`` and ``address`` say which registered model it is, and where a person can look at it.
    """
    engine = Engine(
        folder,
        max_concurrent_requests=cfg.max_concurrent_requests,
        max_queued_requests=cfg.max_queued_requests,
        threads=cfg.threads,
        device=cfg.device,
        dtype=cfg.dtype,
        call_budget=cfg.call_budget,
        helper_required=cfg.helper_required,
        questions_at_once=cfg.questions_at_once,
        adapters=AdapterSources(cfg.adapters, cfg.calibrations),
    )
    return Version(engine, Origin.of(folder, version, address), created=folder.stat().st_mtime)


def checked_version(cfg: ServeConfig, target: Target) -> Version:
    """The version that a registry wants, after it has answered once.

    Raises ``ArtifactError`` if its files are not the registered ones, or if it writes nonsense; ``ServiceError`` if its
    helper is not there.
    """
    if not target.folder:
        raise ArtifactError(f"{target.name} has no folder on this machine")
    folder = Path(target.folder)
    check_files(folder, target.digest)
    version = loaded_version(cfg, folder, target.name, target.page)
    try:
        check_answers(version.engine, next(iter(version.origin.prompts), ""))
    except BaseException:
        version.close()
        raise
    return version
