"""The line from shards to a bundle with a tokenizer whose special tokens are where others have put them."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from components.cascade.call_scores import call_probability
from components.cascade.config import CascadeConfig
from components.cascade.decoding import Cascade, CascadeRequest
from components.cascade.helpers.model import ModelHelper
from components.cascade.reply_tokens import reply_ids
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.special_tokens import CALL, IM_END
from components.data.tokenizer import TextTokenizer
from components.delegation import calibrate
from components.delegation import train as delegation
from components.delegation.config import CalibrateConfig, DelegateConfig, DelegationConfig
from components.deployment import bundle
from components.deployment.config import BundleStageConfig
from components.deployment.responses import token_text
from components.evaluation.artifacts import Scores
from components.labelling.artifact import Labels
from components.model.checkpoint import load_model
from components.model.config import ModelConfig
from components.model.generate import Sampling
from components.pretrain import stage as pretrain
from components.training.config import PretrainConfig, TrainerConfig
from components.training.trained import TrainedModel
from tests.data.elsewhere import OTHER_END, SCATTERED, TOOL, save_elsewhere
from tests.delegation.test_train import label
from tests.fakes import Told, calibration
from tests.training.conftest import prepare

MODEL = ModelConfig(name="tiny", layers=1, width=32, hidden_width=64, heads=4, kv_heads=2, context_length=32)
TRAINER = TrainerConfig(
    max_steps=30, precision="32-true", threads=1, optimizer="adamw", learning_rate=1e-2, validation_batches=4
)


@pytest.fixture(scope="module", params=[None, SCATTERED], ids=["at the end", "scattered"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(tmp_path_factory.mktemp("prepared"), partial(save_elsewhere, places=request.param))


@pytest.fixture(scope="module")
def tokens(prepared: PreparedData) -> TextTokenizer:
    return prepared.tokenizer()


@pytest.fixture(scope="module")
def labels(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Labels:
    return label(prepared, tmp_path_factory.mktemp("labels"), share=0.3)


@pytest.fixture(scope="module")
def pretrained(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    run = Run.local(tmp_path_factory.mktemp("pretrained"), "pretrain")
    return pretrain(run, PretrainConfig(model=MODEL, trainer=TRAINER), prepared=prepared)


@pytest.fixture(scope="module")
def delegated(
    prepared: PreparedData, labels: Labels, pretrained: TrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> TrainedModel:
    run = Run.local(tmp_path_factory.mktemp("delegated"), "delegate")
    wanted = DelegationConfig(max_steps=30, learning_rate=1e-2, warmup_fraction=0.0, budget=0.3)
    cfg = DelegateConfig(model=MODEL, trainer=TRAINER, delegation=wanted)
    return delegation.stage(run, cfg, prepared=prepared, labels=labels, pretrained=pretrained)


def test_what_other_runtimes_read_names_the_right_ids(pretrained: TrainedModel, tokens: TextTokenizer) -> None:
    config, generation = (
        json.loads((pretrained.model_folder / name).read_text()) for name in ("config.json", "generation_config.json")
    )
    assert (config["eos_token_id"], config["pad_token_id"]) == (tokens.end_of_text_id, tokens.padding_id)
    assert config["vocab_size"] == tokens.vocab_size
    assert generation["eos_token_id"] == [tokens.im_end_id, tokens.end_of_text_id]
    assert generation["suppress_tokens"] == [tokens.call_id]


def test_delegation_teaches_the_call_of_this_tokenizer(
    prepared: PreparedData, pretrained: TrainedModel, delegated: TrainedModel, tokens: TextTokenizer
) -> None:
    assert delegated.metrics["auroc_delegated"] > 0.7
    text = torch.from_numpy(prepared.shards().splits["validation"].slice(0, 32).astype("int64"))

    def called(model: TrainedModel) -> float:
        loaded = load_model(model.model_folder)
        return call_probability(loaded.logits(loaded(text[None]))[0], tokens.call_id).mean().item()

    assert called(delegated) > 0.04 > 0.01 > called(pretrained)


def test_calibration_reads_it(
    prepared: PreparedData, labels: Labels, delegated: TrainedModel, tokens: TextTokenizer, tmp_path: Path
) -> None:
    cfg = CalibrateConfig(precision="32-true")
    found = calibrate.stage(
        Run.local(tmp_path / "calibrate", "calibrate"), cfg, delegated=delegated, prepared=prepared, labels=labels
    )
    assert found.metrics["mean_call_probability"] > 0.04

    run = Run.local(tmp_path / "bundle", "bundle")
    assessed = Run.local(tmp_path / "assess", "assess").seal({}, view=Scores)
    cfg = BundleStageConfig(cascade=CascadeConfig.model_validate({"helper": {"kind": "none"}}))
    sealed = bundle.stage(run, cfg, delegated=delegated, prepared=prepared, assessment=assessed, calibration=found)
    manifest = bundle.load_bundle(sealed.folder).manifest
    policy = manifest.special_tokens
    assert policy.ids == {name: tokens.special.ids[name] for name in tokens.special.ids}
    assert (policy.stop, policy.suppress, policy.separates_documents) == ([IM_END, OTHER_END], [CALL], OTHER_END)
    assert manifest.delegation is not None
    assert (manifest.delegation.call_token, manifest.delegation.call_id) == (CALL, tokens.call_id)


def test_a_cascade_reads_and_writes_text_only(delegated: TrainedModel, tokens: TextTokenizer) -> None:
    model = load_model(delegated.model_folder)
    silent = frozenset(tokens.special.ids.values()) - {tokens.call_id, tokens.end_of_text_id}
    sampling = Sampling(temperature=0, max_tokens=12, suppress_ids=silent)
    helper = Told(" old")
    asking = Cascade(model, tokens, helper, calibration(0.0, 1e-9), CascadeConfig(budget=0.5))
    (answer,) = asking.answers([CascadeRequest([tokens.end_of_text_id, *tokens.encode("The river")], sampling)])
    assert helper.calls
    assert helper.calls[0].text.removeprefix(OTHER_END).startswith("The river")
    assert " old" in tokens.decode(answer.ids)
    assert tokens.call_id not in answer.ids

    asking = Cascade(model, tokens, Told(f" {OTHER_END}"), calibration(0.0, 1e-9), CascadeConfig(budget=0.5))
    (answer,) = asking.answers([CascadeRequest([tokens.end_of_text_id, *tokens.encode("The river")], sampling)])
    assert answer.summary.failed_calls == answer.summary.calls > 0, "a reply that spells a special token is refused"


def test_replies_continue_behind_a_special_token(tokens: TextTokenizer) -> None:
    before = tokens.encode("The old mountain")
    for special in tokens.special.ids.values():
        assert reply_ids(tokens, [*before, special], "The river") == tokens.encode("The river")
    assert reply_ids(tokens, before, " and the sea") == tokens.encode("The old mountain and the sea")[len(before) :]


def test_a_local_helper_is_silent_about_all_special_tokens_but_ends(
    delegated: TrainedModel, tokens: TextTokenizer
) -> None:
    helper = ModelHelper(load_model(delegated.model_folder), tokens, same_tokenizer=True)
    ends = {tokens.end_of_text_id, tokens.im_end_id}
    assert set(helper._silent) == set(tokens.special.ids.values()) - ends
    helper.check()


def test_names_of_tokens_tell_special_ones_from_text(tokens: TextTokenizer) -> None:
    names = [token_text(tokens, id) for id in range(tokens.vocab_size)]
    assert len(set(names)) == len(names)
    assert {names[id] for id in tokens.special.ids.values()} == {*tokens.special.ids} >= {CALL, OTHER_END, TOOL}
