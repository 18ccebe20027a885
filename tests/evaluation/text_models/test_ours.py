"""Our own models as they are evaluated: likelihoods of the small model, text by the whole cascade."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.cascade.config import CascadeConfig
from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.evaluation.gate.served import ServedModel
from components.evaluation.likelihood import score_documents
from components.evaluation.text_models.base import Continuation
from components.evaluation.text_models.ours import LacewingModel
from components.model.checkpoint import save_model
from components.model.transformer import Transformer
from components.training.trained import TrainedModel
from tests.evaluation.conftest import NAMES, TOWNS, bundle
from tests.fakes import SPECIAL, Told, calibration

REQUESTS = [
    *(Continuation(f"{name} was born in", f" {town}") for name in NAMES for town in TOWNS),
    *(Continuation("", f"{name} was born in {town} and worked") for name, town in zip(NAMES, TOWNS, strict=True)),
    Continuation("Ada was born in ", "Orlen."),
    Continuation("Ada was born in Orlen and worked as a weaver. " * 9, "Ada was born in Orlen."),
    Continuation("Ada was born", " in Orlen and worked as a weaver." * 9),
]


@pytest.fixture(scope="session")
def model(trained: Transformer, tokenizer: TextTokenizer) -> LacewingModel:
    from components.cascade.calibration import NEVER_CALLS

    served = ServedModel(trained, tokenizer, None, NEVER_CALLS, CascadeConfig(budget=0.0))
    return LacewingModel("ada", "1", served)


def logarithms(model: LacewingModel, ids: list[int]) -> torch.Tensor:
    """log P of every token after ``ids``, by the plain forward pass, <CALL> left out."""
    network = model.served.model
    with torch.no_grad():
        logits = network.logits(network(torch.tensor([ids])))[0].clone()
    logits[:, model.served.tokenizer.call_id] = float("-inf")
    return logits.double().log_softmax(dim=-1)


@pytest.mark.parametrize("request_", [REQUESTS[0], REQUESTS[64], REQUESTS[72]], ids=["context", "no context", "space"])
def test_a_continuation_is_as_likely_as_the_plain_forward_pass_says(
    model: LacewingModel, request_: Continuation
) -> None:
    tokenizer = model.served.tokenizer
    whole = [tokenizer.end_of_text_id, *tokenizer.encode(request_.context + request_.text)]
    first = 1 + len(tokenizer.encode(request_.context.rstrip()))
    log = logarithms(model, whole[:-1])
    expected = sum(log[place - 1, whole[place]].item() for place in range(first, len(whole)))
    (found,) = model.likelihoods([request_])
    assert found.log_likelihood == pytest.approx(expected, abs=1e-4)
    assert found.tokens == len(whole) - first
    assert found.greedy == all(log[place - 1].argmax() == whole[place] for place in range(first, len(whole)))


def test_the_model_prefers_what_it_has_read(model: LacewingModel) -> None:
    scores = [each.log_likelihood for each in model.likelihoods(REQUESTS[:64])]
    best = [TOWNS[int(np.argmax(scores[8 * i : 8 * i + 8]))] for i in range(8)]
    assert sum(town == right for town, right in zip(best, TOWNS, strict=True)) >= 6


@pytest.mark.parametrize("batch_tokens", [1, 100, 1000, 100_000])
def test_results_have_the_same_bits_for_any_batch_size(model: LacewingModel, batch_tokens: int) -> None:
    other = replace(model, batch_tokens=batch_tokens)
    assert other.likelihoods(REQUESTS) == model.likelihoods(REQUESTS)
    texts = [request.context + request.text for request in REQUESTS[60:]]
    for here, there in zip(model.token_scores(texts), other.token_scores(texts), strict=True):
        assert np.array_equal(here.nats, there.nats)


@settings(max_examples=10, deadline=None)
@given(chosen=st.lists(st.integers(0, len(REQUESTS) - 1), min_size=1, max_size=12))
def test_a_result_does_not_depend_on_what_else_is_asked(model: LacewingModel, chosen: list[int]) -> None:
    everything = model.likelihoods(REQUESTS)
    assert model.likelihoods([REQUESTS[i] for i in chosen]) == [everything[i] for i in chosen]


def test_token_scores_are_those_of_documents(
    model: LacewingModel, prepared: PreparedData, tokenizer: TextTokenizer
) -> None:
    texts = list(prepared.texts("test", range(6)))
    ids = [tokenizer.encode(text) for text in texts]
    assert max(map(len, ids)) > model.context_length  # so windows are needed
    scores = model.token_scores(texts)
    documents = score_documents(
        model.served.model, ids, [len(text.encode()) for text in texts], tokenizer.end_of_text_id, tokenizer.call_id
    )
    for text, score, nats in zip(texts, scores, documents.nats, strict=True):
        assert score.sizes.sum() == len(text.encode())
        assert score.nats.sum() < nats  # which counts the ending as well
        assert score.nats.sum() == pytest.approx(nats, abs=6.0)
        assert ((score.confidence > 0) & (score.confidence <= 1)).all()
        assert (score.confidence >= np.exp(-score.nats) - 1e-5).all()
        assert np.exp(-score.nats[score.right]) == pytest.approx(score.confidence[score.right], rel=1e-4)


def test_a_continuation_longer_than_the_context_is_read_in_windows(model: LacewingModel) -> None:
    (found,) = model.likelihoods([REQUESTS[-1]])
    assert found.tokens > model.context_length
    assert 0 > found.log_likelihood > -6.0 * found.tokens


def test_a_continuation_without_tokens_is_refused(model: LacewingModel) -> None:
    with pytest.raises(InputError, match="the continuation '' after 'Ada' has no token"):
        model.likelihoods([Continuation("Ada", "")])


def test_a_model_that_gives_no_number_is_refused_by_name(trained: Transformer, model: LacewingModel) -> None:
    broken = Transformer(trained.config, trained.vocab_size).eval()
    broken.load_state_dict(trained.state_dict())
    with torch.no_grad():
        broken.norm.weight[0] = float("nan")
    diverged = replace(model, name="diverged", served=replace(model.served, model=broken))
    with pytest.raises(ArtifactError, match="the model diverged gives a likelihood that is not finite"):
        diverged.likelihoods(REQUESTS[:1])
    with pytest.raises(ArtifactError, match="diverged"):
        diverged.token_scores(["Ada was born."])


def test_writing_goes_on_to_a_stop_text_or_the_limit(model: LacewingModel) -> None:
    short, long = model.write(["Ada was born in", "Bram was born in"], 30, stop=[" and"])
    assert " and" not in short.text + long.text
    assert short.text.strip() == TOWNS[0]
    assert short.tokens < 30
    (limited,) = model.write(["Ada was born in"], 3)
    assert limited.tokens == 3
    assert limited.calls == 0


def test_a_cascade_asks_its_helper_when_it_writes_and_not_for_likelihoods(model: LacewingModel) -> None:
    helper = Told(" Atlantis")
    cascade = CascadeConfig(budget=1.0)
    served = replace(model.served, helper=helper, calibration=calibration(), config=cascade)
    asking = replace(model, served=served)
    (written,) = asking.write(["Ada was born in"], 12)
    assert "Atlantis" in written.text
    assert written.calls > 0
    assert asking.likelihoods(REQUESTS[:3]) == model.likelihoods(REQUESTS[:3])


def test_a_bundle_and_a_training_open_as_the_same_model(
    tmp_path: Path, trained: Transformer, prepared: PreparedData
) -> None:
    run = Run.local(tmp_path / "training", "pretrain")
    save_model(trained, run.folder / TrainedModel.MODEL, SPECIAL)
    for path in prepared.tokenizer_folder.iterdir():
        (run.folder / TrainedModel.MODEL / path.name).write_bytes(path.read_bytes())
    training = LacewingModel.of_training(run.seal({}, view=TrainedModel), "t", "cpu")
    bundled = LacewingModel.of_bundle(bundle(tmp_path / "bundle", trained, prepared), "b", "cpu")
    assert training.likelihoods(REQUESTS[:9]) == bundled.likelihoods(REQUESTS[:9])
    assert training.identity != bundled.identity
    bundled.close()
