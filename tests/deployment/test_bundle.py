"""A bundle is complete, true to its sources, readable by transformers, and checks itself."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from components.cascade.config import CascadeConfig
from components.cascade.helpers.base import Call, Reply
from components.core.artifact import RECORD
from components.core.errors import ArtifactError
from components.core.run import Run
from components.data.tokenizer import TextTokenizer
from components.delegation.bundled import DelegationRecord, open_bundled_helper
from components.delegation.config import DETAILS
from components.deployment.bundle import FILES, load_bundle, stage
from components.deployment.config import BundleStageConfig
from components.evaluation.factuality.artifacts import CascadeAssessment
from components.model.bundle import Bundle
from components.model.checkpoint import WEIGHTS, load_model, save_model
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.trained import TrainedModel
from tests.deployment.conftest import CONTEXT_LENGTH, SENTENCES, VOCAB_SIZE, Delegated, Fact, Stages
from tests.fakes import SPECIAL


def test_the_bundle_is_flat_and_says_what_it_is(bundle: Bundle, stages: Stages) -> None:
    pretrained, prepared, _ = stages
    assert sorted(bundle.record.files) == sorted([*FILES, Bundle.MANIFEST])
    manifest = json.loads(bundle.path(Bundle.MANIFEST).read_text())
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


def test_transformers_reads_the_same_ids_and_computes_the_same_logits(bundle: Bundle) -> None:
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


def test_transformers_renders_the_conversation_that_the_server_decodes(bundle: Bundle) -> None:
    from transformers import AutoTokenizer

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who was Ada Quill?"}]
    their_tokenizer = AutoTokenizer.from_pretrained(bundle.folder)
    rendered = their_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = their_tokenizer(rendered)["input_ids"]
    assert TextTokenizer.load(bundle.folder).encode_chat(messages) == ids


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "copy"))


@pytest.fixture(params=["with its record", "as the registry gives it"])
def damaged_copy(copy: Path, request: pytest.FixtureRequest) -> Path:
    if request.param != "with its record":
        (copy / RECORD).unlink()
    return copy


def test_an_intact_copy_without_the_artifact_record_is_still_a_bundle(copy: Path) -> None:
    (copy / RECORD).unlink()
    assert load_bundle(copy).manifest.name == "tiny"


def test_a_bundle_of_before_there_were_penalties_has_none(copy: Path) -> None:
    (copy / RECORD).unlink()
    manifest = json.loads((copy / Bundle.MANIFEST).read_text())
    del manifest["presence_penalty"]
    (copy / Bundle.MANIFEST).write_text(json.dumps(manifest))
    assert load_bundle(copy).manifest.presence_penalty == 0.0


def test_truncated_weights_are_refused(damaged_copy: Path) -> None:
    weights = damaged_copy / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"model\.safetensors has \d+ bytes"):
        load_bundle(damaged_copy)


def test_weights_with_one_flipped_bit_are_refused(damaged_copy: Path) -> None:
    weights = damaged_copy / WEIGHTS
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
    (copy / Bundle.MANIFEST).write_text("{}")
    with pytest.raises(ArtifactError, match="cannot be read as a manifest"):
        load_bundle(copy)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not a bundle: it has no manifest\.json"):
        load_bundle(tmp_path)


def test_a_training_result_that_was_altered_is_not_bundled(stages: Stages, tmp_path: Path) -> None:
    shutil.copytree(stages.delegated.folder, tmp_path / "pretrain")
    with (tmp_path / "pretrain" / TrainedModel.MODEL / WEIGHTS).open("ab") as file:
        file.write(b"x")
    altered = TrainedModel.open(tmp_path / "pretrain")
    with pytest.raises(ArtifactError, match="damaged"):
        stage(Run.local(tmp_path / "bundle"), BundleStageConfig(), **stages._replace(delegated=altered)._asdict())


def test_a_model_is_not_bundled_with_a_tokenizer_of_another_size(stages: Stages, tmp_path: Path) -> None:
    run = Run.local(tmp_path / "pretrain")
    shutil.copytree(stages.delegated.model_folder, run.folder / TrainedModel.MODEL)
    shape = ModelConfig(layers=1, width=16, hidden_width=16, heads=2, kv_heads=1, context_length=32)
    save_model(Transformer(shape, VOCAB_SIZE + 64), run.folder / TrainedModel.MODEL, SPECIAL)
    other = run.seal({"tokens": 1.0}, view=TrainedModel)
    with pytest.raises(ArtifactError, match="do not belong together"):
        stage(Run.local(tmp_path / "bundle"), BundleStageConfig(), **stages._replace(delegated=other)._asdict())


def test_the_loaded_model_is_the_trained_one(bundle: Bundle, stages: Stages) -> None:
    trained = load_model(stages[0].model_folder)
    for mine, theirs in zip(load_bundle(bundle.folder).model.parameters(), trained.parameters(), strict=True):
        assert torch.equal(mine, theirs)


# --- what the cascade needs


def _copied(bundle: Bundle, folder: Path) -> Path:
    """As the registry gives it: without the artifact's record."""
    copy = Path(shutil.copytree(bundle.folder, folder))
    (copy / RECORD).unlink()
    return copy


def _helps(folder: Path, fact: Fact) -> bool:
    record = DelegationRecord.load(folder)
    assert record is not None
    helper = open_bundled_helper(record, folder, "cpu")
    (reply,) = helper.answer([Call("request", fact.prompt, (), "word", 16)])
    helper.close()
    return isinstance(reply, Reply) and reply.text == fact.value


def test_a_cascade_brings_its_thresholds_and_its_fact_table(asking: Bundle, fact: Fact, tmp_path: Path) -> None:
    assert sorted(asking.record.files) == sorted([*FILES, Bundle.MANIFEST, Bundle.DELEGATION, Bundle.FACTS])
    bundle = load_bundle(_copied(asking, tmp_path / "copy"))
    assert set(bundle.manifest.files) == {*FILES, Bundle.DELEGATION, Bundle.FACTS}
    assert bundle.delegation is not None
    assert bundle.delegation.selection == "lacy"
    assert bundle.delegation.cascade.helper.kind == "world", "auto is resolved where the data is at hand"
    assert (bundle.delegation.cascade.budget, bundle.delegation.cascade.call_score) == (0.5, "call")
    assert bundle.delegation.calibration.factual
    assert bundle.manifest.metrics["cascade.precision_cascade"] == asking.metrics["cascade.precision_cascade"] == 0.75
    assert _helps(tmp_path / "copy", fact)


def test_the_manifest_tells_other_runtimes_what_call_is(asking: Bundle, bundle: Bundle) -> None:
    manifest = json.loads(asking.path(Bundle.MANIFEST).read_text())
    policy = manifest["delegation"]
    assert (policy["call_token"], policy["call_id"]) == ("<CALL>", manifest["special_tokens"]["ids"]["<CALL>"])
    assert policy["call_token"] in manifest["special_tokens"]["suppress"]
    assert (policy["helper"], policy["budget"], policy["record"]) == ("world", 0.5, Bundle.DELEGATION)
    assert json.loads(bundle.path(Bundle.MANIFEST).read_text())["delegation"] is None


def test_transformers_reads_a_cascades_bundle_and_never_writes_call(asking: Bundle) -> None:
    from transformers import LlamaForCausalLM

    theirs = LlamaForCausalLM.from_pretrained(asking.folder)
    call_id = load_bundle(asking.folder).tokenizer.call_id
    with torch.no_grad():
        ids = torch.tensor([[7, 8, 9]])
        likeliest = theirs(ids).logits[0, -1].argmax()
        theirs.model.embed_tokens.weight[call_id] = 100.0 * theirs.model.embed_tokens.weight[likeliest]
        assert theirs(ids).logits[0, -1].argmax() == call_id, "the model must want to call"
        written = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert call_id not in written


def test_the_retrieval_index_lies_in_a_folder_of_its_own_and_needs_no_corpus(
    delegated: Delegated, fact: Fact, tmp_path: Path
) -> None:
    made = delegated.bundle(tmp_path / "bundle", helper={"kind": "retrieval"})
    copy = _copied(made, tmp_path / "copy")
    manifest = load_bundle(copy).manifest
    assert {"retrieval/index.json", "retrieval/passages.bin"} < set(manifest.files)
    assert not (copy / Bundle.FACTS).exists()
    record = DelegationRecord.load(copy)
    assert record is not None
    helper = open_bundled_helper(record, copy, "cpu")
    assert helper.name == "retrieval"
    helper.close()
    passages = copy / Bundle.RETRIEVAL / "passages.bin"
    passages.write_bytes(passages.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"retrieval/passages\.bin has \d+ bytes"):
        load_bundle(copy)


def test_an_index_that_the_assessment_made_is_taken_over(delegated: Delegated, tmp_path: Path) -> None:
    first = delegated.bundle(tmp_path / "first", helper={"kind": "retrieval"})
    run = Run.local(tmp_path / "cascade", "cascade")
    shutil.copytree(first.path(Bundle.RETRIEVAL), run.folder / CascadeAssessment.RETRIEVAL)
    assessed = run.seal({}, view=CascadeAssessment)
    made = (run.folder / CascadeAssessment.RETRIEVAL / "index.json").read_bytes()
    cfg = BundleStageConfig(cascade=CascadeConfig.model_validate({"helper": {"kind": "retrieval"}}))
    second = stage(Run.local(tmp_path / "second"), cfg, **delegated._replace(cascade=assessed)._asdict())
    assert (second.path(Bundle.RETRIEVAL) / "index.json").read_bytes() == made


@pytest.mark.parametrize("selection", ["ntp", "rho_ignore", "ignore", "ignore_facts"])
def test_a_model_that_never_learned_to_call_asks_where_it_doubts(
    delegated: Delegated, selection: str, tmp_path: Path
) -> None:
    run = Run.local(tmp_path / "model", "delegate")
    shutil.copytree(delegated.delegated.model_folder, run.folder / TrainedModel.MODEL)
    model = run.seal({"tokens": 1.0}, {DETAILS: {"selection": selection}}, view=TrainedModel)
    made = stage(Run.local(tmp_path / "bundle"), BundleStageConfig(), **delegated._replace(delegated=model)._asdict())
    record = DelegationRecord.load(made.folder)
    assert record is not None
    assert (record.selection, record.cascade.call_score) == (selection, "entropy")


def test_a_larger_model_and_an_endpoint_are_only_referred_to(
    delegated: Delegated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = delegated.bundle(tmp_path / "model", helper={"kind": "model", "model": "larger"})
    endpoint = delegated.bundle(tmp_path / "endpoint", helper={"kind": "endpoint", "url": "http://127.0.0.1:9/v1"})
    for made in (model, endpoint):
        assert sorted(made.record.files) == sorted([*FILES, Bundle.MANIFEST, Bundle.DELEGATION])
    found = [DelegationRecord.load(made.folder) for made in (model, endpoint)]
    assert [record and record.cascade.helper.model for record in found] == [str(tmp_path / "larger"), ""]
    assert found[1] is not None
    assert found[1].cascade.helper.url == "http://127.0.0.1:9/v1"


def test_the_closed_worlds_table_is_not_bundled_where_there_is_none(
    stages: Stages, delegated: Delegated, tmp_path: Path
) -> None:
    cfg = BundleStageConfig(cascade=CascadeConfig.model_validate({"helper": {"kind": "world"}}))
    with pytest.raises(ArtifactError, match=r"needs the fact table of the closed world"):
        stage(Run.local(tmp_path / "bundle"), cfg, **stages._asdict(), calibration=delegated.calibration)


def test_a_bundle_from_before_there_were_cascades_is_a_plain_model(bundle: Bundle, tmp_path: Path) -> None:
    copy = _copied(bundle, tmp_path / "copy")
    manifest = json.loads((copy / Bundle.MANIFEST).read_text())
    del manifest["delegation"]
    (copy / Bundle.MANIFEST).write_text(json.dumps(manifest))
    loaded = load_bundle(copy)
    assert loaded.delegation is None
    assert loaded.manifest.delegation is None


def test_a_damaged_record_of_delegation_is_refused(asking: Bundle, tmp_path: Path) -> None:
    copy = _copied(asking, tmp_path / "copy")
    (copy / Bundle.DELEGATION).write_text("{}")
    with pytest.raises(ArtifactError, match=r"delegation\.json has 2 bytes"):
        load_bundle(copy)
    with pytest.raises(ArtifactError, match="cannot be read as a record of delegation"):
        DelegationRecord.load(copy)
