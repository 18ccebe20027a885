"""Gathers what a cascade needs in the bundle: ``delegation.json``, and beside it what the helper must know.

What the helper needs travels with the bundle where it is data (the fact table, the retrieval index). A larger model or
an endpoint is only referred to.
"""

import shutil
from pathlib import Path

from components.cascade.calibration import Calibration
from components.cascade.config import CascadeConfig, HelperConfig
from components.cascade.helpers import open_helper
from components.core.atomic import full_disk_explained, write_text
from components.core.errors import ArtifactError
from components.data.prepared import PreparedData
from components.delegation.bundled import DelegationRecord
from components.delegation.config import SELECTIONS_THAT_CALL, DelegationConfig, SelectionName
from components.evaluation.factuality.artifacts import CascadeAssessment
from components.model.bundle import Bundle
from components.training.trained import TrainedModel


def gather_delegation(
    folder: Path,
    config: CascadeConfig,
    delegated: TrainedModel,
    prepared: PreparedData,
    calibration: Calibration,
    assessed: CascadeAssessment | None,
) -> DelegationRecord:
    """Write ``delegation.json`` into ``folder``, and beside it what the helper needs to know.

    Arguments:
        folder: where the bundle is made.
        config: how model and helper answer together.
        delegated: the trained model, which says what it learned to delegate.
        prepared: the data, for the fact table or the retrieval index.
        calibration: when it calls.
        assessed: the assessment of the cascade; an index that it made is taken over.
    """
    settings = DelegationConfig.of(delegated)
    selection: SelectionName = settings.selection if settings else "ntp"
    score = config.call_score
    if score == "call" and selection not in SELECTIONS_THAT_CALL:
        score = "entropy"  # it was never taught to call, so its uncertainty decides
    calls = calibration.verify().load()
    calls.levels(score)
    record = DelegationRecord(
        selection=selection,
        cascade=config.model_copy(
            update={"call_score": score, "helper": _with_knowledge(folder, config.helper, prepared, assessed)}
        ),
        calibration=calls,
    )
    write_text(folder / Bundle.DELEGATION, record.model_dump_json(indent=2) + "\n")
    return record


def _with_knowledge(
    folder: Path, helper: HelperConfig, prepared: PreparedData, assessed: CascadeAssessment | None
) -> HelperConfig:
    """Copy the data of ``helper`` into ``folder``; returns its configuration as seen from there."""
    kind = helper.kind
    if kind == "auto":
        kind = "world" if prepared.fact_table is not None else "retrieval"
    if kind == "world":
        _copy_fact_table(prepared, folder / Bundle.FACTS)
    if kind == "retrieval":
        index = folder / Bundle.RETRIEVAL
        with full_disk_explained(index):
            if assessed is not None and (found := assessed.retrieval_index) is not None:
                assessed.verify()
                shutil.copytree(found, index, dirs_exist_ok=True)
            # Takes the copy if it is of this corpus, else makes an index.
            made = helper.model_copy(update={"kind": "retrieval"})
            open_helper(made, tokenizer=folder, corpus=prepared, index=index).close()
    model = str(Path(helper.model).resolve()) if kind == "model" else helper.model
    return helper.model_copy(update={"kind": kind, "model": model})


def _copy_fact_table(prepared: PreparedData, target: Path) -> None:
    if prepared.fact_table is None:
        raise ArtifactError(
            f"helper.kind=world needs the fact table of the closed world, and the data in {prepared.folder} has none"
        )
    with full_disk_explained(target):
        shutil.copyfile(prepared.fact_table, target)
