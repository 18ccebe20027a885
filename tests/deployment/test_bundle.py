"""A bundle is complete, true to its sources, readable by transformers, and checks itself."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from components.core.artifact import RECORD, Artifact
from components.core.errors import ArtifactError
from components.core.run import Run
from components.data.tokenizer import TextTokenizer
from components.deployment.bundle import FILES, MANIFEST, load_bundle, stage
from components.deployment.config import BundleConfig
from components.model.checkpoint import load_model, save_model
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from tests.deployment.conftest import CONTEXT_LENGTH, SENTENCES, VOCAB_SIZE

Stages = tuple[Artifact, Artifact, Artifact]


def test_the_bundle_is_flat_and_says_what_it_is(bundle: Artifact, stages: Stages) -> None:
    pretrained, prepared, _ = stages
    assert sorted(bundle.record.files) == sorted([*FILES, MANIFEST])
    manifest = json.loads(bundle.path(MANIFEST).read_text())
    assert manifest["name"] == "tiny"
    assert manifest["architecture"] == "LlamaForCausalLM"
    assert manifest["context_length"] == CONTEXT_LENGTH
    assert manifest["vocab_size"] == VOCAB_SIZE
    assert manifest["training_tokens"] == 1000
    assert manifest["parameters"] == bundle.metrics["parameters"]
    assert manifest["model_key"] == pretrained.key
    assert manifest["data"]["key"] == prepared.key
    assert set(manifest["data"]["digests"]) == {"raw", "tokenizer"}
    assert manifest["metrics"] == {"training.tokens": 1000.0, "training.loss": 5.5, "assessment.bits_per_byte": 3.25}
    assert manifest["special_tokens"]["suppress"] == ["<CALL>"]
    assert bundle.details["name"] == "tiny"


def test_transformers_reads_the_same_ids_and_computes_the_same_logits(bundle: Artifact) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    theirs = LlamaForCausalLM.from_pretrained(bundle.folder)
    their_tokenizer = AutoTokenizer.from_pretrained(bundle.folder)
    ours = load_bundle(bundle.folder)
    for text in SENTENCES:
        ids = ours.tokenizer.encode(text)
        assert their_tokenizer(text)["input_ids"] == ids
        with torch.no_grad():
            expected = theirs(torch.tensor([ids])).logits
            found = ours.model.logits(ours.model(torch.tensor([ids])))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_transformers_renders_the_conversation_that_the_server_decodes(bundle: Artifact) -> None:
    from transformers import AutoTokenizer

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who was Ada Quill?"}]
    their_tokenizer = AutoTokenizer.from_pretrained(bundle.folder)
    rendered = their_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = their_tokenizer(rendered)["input_ids"]
    assert TextTokenizer.load(bundle.folder).encode_chat(messages) == ids


@pytest.fixture
def copy(bundle: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "copy"))


@pytest.fixture(params=["with its record", "as the registry gives it"])
def damaged_copy(copy: Path, request: pytest.FixtureRequest) -> Path:
    if request.param != "with its record":
        (copy / RECORD).unlink()
    return copy


def test_an_intact_copy_without_the_artifact_record_is_still_a_bundle(copy: Path) -> None:
    (copy / RECORD).unlink()
    assert load_bundle(copy).manifest.name == "tiny"


def test_truncated_weights_are_refused(damaged_copy: Path) -> None:
    weights = damaged_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"model\.safetensors has \d+ bytes"):
        load_bundle(damaged_copy)


def test_weights_with_one_flipped_bit_are_refused(damaged_copy: Path) -> None:
    weights = damaged_copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.safetensors was altered"):
        load_bundle(damaged_copy)


def test_a_missing_file_is_named(damaged_copy: Path) -> None:
    (damaged_copy / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is missing"):
        load_bundle(damaged_copy)


def test_a_broken_manifest_is_refused(copy: Path) -> None:
    (copy / RECORD).unlink()
    (copy / MANIFEST).write_text("{}")
    with pytest.raises(ArtifactError, match="cannot be read as a manifest"):
        load_bundle(copy)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no bundle: it has no manifest\.json"):
        load_bundle(tmp_path)


def test_a_training_result_that_was_altered_is_not_bundled(stages: Stages, tmp_path: Path) -> None:
    pretrained, prepared, assessed = stages
    shutil.copytree(pretrained.folder, tmp_path / "pretrain")
    with (tmp_path / "pretrain" / "model" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    altered = Artifact.open(tmp_path / "pretrain")
    with pytest.raises(ArtifactError, match="damaged"):
        stage(Run.local(tmp_path / "bundle"), BundleConfig(), altered, prepared, assessed)


def test_a_model_is_not_bundled_with_a_tokenizer_of_another_size(stages: Stages, tmp_path: Path) -> None:
    pretrained, prepared, assessed = stages
    run = Run.local(tmp_path / "pretrain")
    shutil.copytree(pretrained.folder / "model", run.folder / "model")
    shape = ModelConfig(layers=1, width=16, hidden_width=16, heads=2, kv_heads=1, context_length=32)
    save_model(Transformer(shape, VOCAB_SIZE + 64), run.folder / "model")
    other = run.seal({"tokens": 1.0})
    with pytest.raises(ArtifactError, match="do not belong together"):
        stage(Run.local(tmp_path / "bundle"), BundleConfig(), other, prepared, assessed)


def test_the_loaded_model_is_the_trained_one(bundle: Artifact, stages: Stages) -> None:
    trained = load_model(stages[0].path("model"))
    for mine, theirs in zip(load_bundle(bundle.folder).model.parameters(), trained.parameters(), strict=True):
        assert torch.equal(mine, theirs)
