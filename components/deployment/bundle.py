"""The bundle: one folder that holds everything needed to run the model, here or in any Llama runtime.

Weights, config, tokenizer and chat template have the layout of Hugging Face. ``manifest.json`` holds the origin of the
model, its metrics and the digest of every file, so that a copy of a bundle can be checked anywhere. A cascade needs
more than the model, and that lies beside it (``delegation.py``). Other runtimes suppress ``<CALL>`` and need none of
it.
"""

import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from components.cascade.calibration import Calibration
from components.cascade.config import CallScore, HelperKind
from components.core.artifact import RECORD, FileRecord
from components.core.atomic import full_disk_explained, write_json, write_text
from components.core.errors import ArtifactError
from components.core.identity import digest_file, digest_json
from components.core.records import read_record
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.special_tokens import CALL, CHAT_TEMPLATE_FILE, TOKENIZER, TOKENIZER_CONFIG, SpecialTokens
from components.data.tokenizer import TextTokenizer
from components.delegation.bundled import DelegationRecord
from components.delegation.config import SelectionName
from components.deployment.config import BundleConfig, BundleStageConfig
from components.deployment.delegation import gather_delegation
from components.deployment.showcase import prompts_to_try
from components.evaluation.artifacts import Scores
from components.evaluation.factuality.artifacts import CascadeAssessment
from components.model.bundle import Bundle
from components.model.checkpoint import GENERATION_CONFIG, WEIGHTS, load_model
from components.model.llama_config import CONFIG
from components.model.transformer import Transformer
from components.training.trained import TrainedModel

FILES = (WEIGHTS, CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE_FILE)


class TokenPolicy(BaseModel):
    """The special tokens, and what a runtime must do with them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    ids: dict[str, int]
    """Id of every special token."""
    begin_of_text: bool
    """Whether a token must be put before a text."""
    stop: list[str]
    """Tokens that end an answer."""
    suppress: list[str]
    """Tokens that a model without a helper must never emit: mask them before the softmax."""
    separates_documents: str
    """Token that follows every document of the training data."""

    @classmethod
    def of(cls, special: SpecialTokens) -> "TokenPolicy":
        """For models of this platform whose tokenizer has these special tokens."""
        name = {id: name for name, id in special.ids.items()}
        return cls(
            ids=dict(special.ids),
            begin_of_text=False,
            stop=[name[special.im_end], name[special.end_of_text]],
            suppress=[name[special.call]],
            separates_documents=name[special.end_of_text],
        )


class DelegationPolicy(BaseModel):
    """How this model asks for help: what a runtime must know, with a helper or without one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    call_token: str
    """Its probability says how strongly the model asks for help. It must never be emitted or read. A runtime without a
    helper masks it before the softmax. A runtime with a helper reads its probability first, and then masks it."""
    call_id: int
    """Its id."""
    selection: SelectionName
    """What the model learned to delegate."""
    call_score: CallScore
    """What is compared with the threshold: the probability of ``call_token``, or the uncertainty of the prediction."""
    budget: float
    """Share of the decisions that become calls."""
    helper: HelperKind
    """Who answers calls."""
    record: str = Bundle.DELEGATION
    """File with thresholds and helper."""


class DataRecord(BaseModel):
    """What the model was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    key: str
    """Key of the prepare artifact."""
    digests: dict[str, str]
    """SHA-256 over the names and contents of all files of each part (``raw``, ``tokenizer``, ``shards``)."""
    details: dict[str, Any]
    """Sources and sizes, as prepare recorded them."""


class Manifest(BaseModel):
    """Contents of ``manifest.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """Name of the model."""
    shape: str
    """Preset that gave the model its shape."""
    architecture: str
    """Hugging Face class that loads the weights."""
    parameters: int
    """Number of weights; tied input and output embeddings are one matrix and counted once."""
    vocab_size: int
    """Number of tokens, special tokens included."""
    context_length: int
    """Longest text the model can read, in tokens, its own answer included."""
    training_tokens: int
    """Tokens seen in training, repetitions included."""
    model_key: str
    """Key of the artifact of training."""
    data: DataRecord
    """What the model was trained on."""
    presence_penalty: float = 0.0
    """Of an answer whose request does not set its own; bundles made before there was this setting have none."""
    metrics: dict[str, float]
    """Metrics of training (``training.*``), of assessment (``assessment.*``) and of the cascade (``cascade.*``)."""
    special_tokens: TokenPolicy
    """Which special tokens there are and what a runtime must do with them."""
    delegation: DelegationPolicy | None = None
    """How the model asks for help; ``None``: it was bundled as a plain model."""
    files: dict[str, FileRecord]
    """Size and digest of every other file of the bundle."""


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle in memory, ready to decode."""

    manifest: Manifest
    model: Transformer
    tokenizer: TextTokenizer
    delegation: DelegationRecord | None
    """When to ask, and which helper; ``None`` for a plain model."""


def stage(
    run: Run,
    config: BundleStageConfig,
    *,
    delegated: TrainedModel,
    prepared: PreparedData,
    assessment: Scores,
    calibration: Calibration | None = None,
    cascade: CascadeAssessment | None = None,
) -> Bundle:
    """Gather the trained model and what is known about it in one folder; load it once to be sure.

    Arguments:
        run: where the bundle goes.
        config: its name, and how model and helper answer together.
        delegated: the model that learned to ask, or a plain pretrained one.
        prepared: what it was trained on.
        assessment: how good it is alone.
        calibration: when it asks; without it the bundle is a plain model.
        cascade: how good it is with its helper.
    """
    _copy_model(run, delegated)
    model, tokenizer = _load(run.folder)
    record = None
    if calibration is not None:
        run.report(len(FILES) / (len(FILES) + 1), "gathering what the helper needs")
        record = gather_delegation(run.folder, config.cascade, delegated, prepared, calibration, cascade)
        if prompts := prompts_to_try(assessment):
            write_json(run.folder / Bundle.PROMPTS, prompts)
    metrics = {
        f"{origin}.{name}": value
        for origin, artifact in (("training", delegated), ("assessment", assessment), ("cascade", cascade))
        if artifact is not None
        for name, value in artifact.metrics.items()
    }
    manifest = _manifest(
        config, model, tokenizer.special, delegated, prepared, metrics, record, _file_records(run.folder)
    )
    write_text(run.folder / Bundle.MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    asks = f", asks {record.cascade.helper.kind} at {record.cascade.budget:.0%}" if record else ""
    run.report(1.0, f"{manifest.parameters:,} parameters, vocabulary {tokenizer.vocab_size:,}{asks}")
    size = float(sum(file.bytes for file in manifest.files.values()))
    return run.seal(
        {**manifest.metrics, "parameters": float(manifest.parameters), "bytes": size},
        {**manifest.model_dump(mode="json", exclude={"metrics", "files"}), **_catalogued(manifest)},
        view=Bundle,
    )


def _catalogued(manifest: Manifest) -> dict[str, Any]:
    """How a registry lists the bundle: a line for people, and the tags by which they find it."""
    known = {
        "parameters": "{:,.0f} parameters",
        "training.tokens": "{:,.0f} training tokens",
        "assessment.bits_per_byte": "{:.4f} bits per byte on held-out text",
    }
    metrics = {**manifest.metrics, "parameters": manifest.parameters}
    line = ", ".join(text.format(metrics[name]) for name, text in known.items() if name in metrics)
    bits = metrics.get("assessment.bits_per_byte")
    return {"description": line, "tags": {"bits_per_byte": f"{bits:.6f}"} if bits is not None else {}}


def _copy_model(run: Run, delegated: TrainedModel) -> None:
    source = delegated.verify().model_folder
    for position, name in enumerate(FILES):
        run.report(position / (len(FILES) + 1), f"copying {name}")
        with full_disk_explained(run.folder / name):
            shutil.copyfile(source / name, run.folder / name)


def load_bundle(folder: Path, device: torch.device | str = "cpu") -> LoadedBundle:
    """Read a bundle and check every file against its recorded digest.

    Raises ``ArtifactError`` if ``folder`` is no bundle, or if a file of it is missing, truncated or altered.
    """
    path = folder / Bundle.MANIFEST
    if not path.is_file():
        raise ArtifactError(
            f"{folder} is not a bundle: it has no {path.name}. Give the folder of a bundle artifact or a model "
            "downloaded from the registry."
        )
    sealed = (folder / RECORD).is_file()
    if sealed:  # its record also covers the manifest
        Bundle.open(folder).verify()
    manifest = read_record(path, Manifest, "a manifest")
    if not sealed and (found := _differences(folder, manifest.files)):
        raise ArtifactError(f"bundle {folder} is damaged: {found}. Download it again, or run the flow again.")
    return LoadedBundle(manifest, *_load(folder, device), DelegationRecord.load(folder))


def _load(folder: Path, device: torch.device | str = "cpu") -> tuple[Transformer, TextTokenizer]:
    model, tokenizer = load_model(folder, device=device), TextTokenizer.load(folder)
    if model.vocab_size != tokenizer.vocab_size:
        raise ArtifactError(
            f"{folder}: the model has {model.vocab_size} tokens, its tokenizer {tokenizer.vocab_size}; "
            "they do not belong together"
        )
    return model.eval(), tokenizer


def _manifest(
    config: BundleConfig,
    model: Transformer,
    special: SpecialTokens,
    delegated: TrainedModel,
    prepared: PreparedData,
    metrics: dict[str, float],
    delegation: DelegationRecord | None,
    files: dict[str, FileRecord],
) -> Manifest:
    return Manifest(
        name=config.name,
        shape=model.config.name,
        architecture="LlamaForCausalLM",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocab_size=model.vocab_size,
        context_length=model.config.context_length,
        training_tokens=delegated.tokens_seen,
        model_key=delegated.key,
        data=DataRecord(key=prepared.key, digests=_digests(prepared), details=prepared.details),
        presence_penalty=config.presence_penalty,
        metrics=metrics,
        special_tokens=TokenPolicy.of(special),
        delegation=_policy(delegation, special) if delegation else None,
        files=files,
    )


def _policy(record: DelegationRecord, special: SpecialTokens) -> DelegationPolicy:
    return DelegationPolicy(
        call_token=CALL,
        call_id=special.call,
        selection=record.selection,
        call_score=record.cascade.call_score,
        budget=record.cascade.budget,
        helper=record.cascade.helper.kind,
    )


def _digests(prepared: PreparedData) -> dict[str, str]:
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for name, record in prepared.record.files.items():
        parts[name.partition("/")[0]][name] = record.sha256
    return {part: digest_json(files) for part, files in sorted(parts.items())}


def _file_records(folder: Path) -> dict[str, FileRecord]:
    """Of the model's files, and of what the cascade needs beside them."""
    index = (path.relative_to(folder).as_posix() for path in (folder / Bundle.RETRIEVAL).rglob("*") if path.is_file())
    beside = (name for name in (Bundle.DELEGATION, Bundle.FACTS, Bundle.PROMPTS) if (folder / name).is_file())
    names = [*FILES, *beside, *sorted(index)]
    return {name: FileRecord(bytes=(folder / name).stat().st_size, sha256=digest_file(folder / name)) for name in names}


def _differences(folder: Path, expected: dict[str, FileRecord]) -> str:
    faults: list[str] = []
    for name, record in expected.items():
        if not (folder / name).is_file():
            faults.append(f"{name} is missing")
        elif (size := (folder / name).stat().st_size) != record.bytes:
            faults.append(f"{name} has {size} bytes, {record.bytes} were recorded")
        elif digest_file(folder / name) != record.sha256:
            faults.append(f"{name} was altered (its digest differs from the record)")
    return "; ".join(faults)
