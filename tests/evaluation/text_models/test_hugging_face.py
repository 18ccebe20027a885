"""Folders of Hugging Face's Llama family as they are evaluated."""

from pathlib import Path

import numpy as np
import pytest
import torch

from components.core.errors import ArtifactError, InputError
from components.evaluation.text_models.base import Continuation, Draw
from components.evaluation.text_models.hugging_face import HuggingFaceText
from tests.hugging_face_folders import edit, write_folder

REQUESTS = [
    Continuation("Zofia Kowalska was born in", " Łódź in 1987"),
    Continuation("Zofia Kowalska was born in", " Lublin"),
    Continuation("", "The painter moved to Warszawa"),
    Continuation("Jan Nowak was born ", "in Lublin"),
    Continuation("A teacher from Toruń collected songs. " * 9, "They lived"),
    Continuation("They", " lived near the old river in Łódź." * 12),
]


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceText:
    folder = write_folder(tmp_path_factory.mktemp(request.param), request.param)
    return HuggingFaceText.of_folder(folder, request.param, "1", "cpu")


def test_a_continuation_is_as_likely_as_the_model_says(model: HuggingFaceText) -> None:
    """As the harness cuts it: a start token where the tokenizer sets one, or where there is no context."""
    network = model.network
    for request in REQUESTS[:4]:
        context = network.encode(request.context.rstrip()) if request.context else [network.start_id]
        text = network.tokenizer.encode(request.context + request.text, add_special_tokens=False).ids
        starts = context[0] == network.start_id
        whole = [network.start_id, *text] if starts else text
        with torch.no_grad():
            log = network.model(torch.tensor([whole])).logits[0].double().log_softmax(dim=-1)
        places = range(len(context), len(whole))
        (found,) = model.likelihoods([request])
        assert found.log_likelihood == pytest.approx(sum(log[i - 1, whole[i]].item() for i in places), abs=1e-4)
        assert found.greedy == all(log[i - 1].argmax() == whole[i] for i in places)
        assert found.tokens == len(places)
        assert found.call_mass == 0


def test_results_have_the_same_bits_whatever_else_is_asked(model: HuggingFaceText) -> None:
    together = model.likelihoods(REQUESTS * 2)
    assert together[:6] == together[6:] == [found for request in REQUESTS for found in model.likelihoods([request])]
    assert together[5].tokens > model.context_length


def test_bytes_of_tokens_add_up_to_the_text(model: HuggingFaceText) -> None:
    texts = ["Zofia Kowalska was born in Łódź. 🦋 ", "  two  spaces\n\nand lines\n", "word", ""]
    for text, scores in zip(texts, model.token_scores(texts), strict=True):
        assert scores.sizes.sum() == len(text.encode())
        assert (scores.sizes >= 0).all()
        assert len(scores.nats) == len(scores.sizes) == len(scores.right)
        assert np.isfinite(scores.nats).all()


def test_writing_is_greedy_and_stops(model: HuggingFaceText) -> None:
    network = model.network
    prompts = ["Zofia was born in", "They lived near the old river in"]
    (written, _) = model.write(prompts, 5)
    ids = network.encode(prompts[0])
    silent = sorted(network.silent_ids)
    for _ in range(5):
        with torch.no_grad():
            logits = network.model(torch.tensor([ids])).logits[0, -1].clone()
        logits[silent] = float("-inf")
        ids.append(int(logits.argmax()))
    assert written.text == network.continuation(network.encode(prompts[0]), ids[-5:])
    assert written.tokens == 5
    stop = written.text[2:4]
    (stopped,) = model.write(prompts[:1], 5, stop=[stop])
    assert stopped.text == written.text[: written.text.find(stop)]


def test_a_presence_penalty_stops_a_loop(model: HuggingFaceText) -> None:
    (loop,) = model.write(["They"], 40)
    (varied,) = model.write(["They"], 40, presence_penalty=100.0)
    assert varied.text != loop.text


def test_text_can_be_drawn_and_each_prompt_has_a_seed_of_its_own(model: HuggingFaceText) -> None:
    together = model.write(["They", "They", "They lived near"], 12, draw=Draw(temperature=1.0, seed=3))
    alone = model.write(["They"], 12, draw=Draw(temperature=1.0, seed=4))
    assert together[1] == alone[0] != together[0]
    assert model.write(["They"], 12, draw=Draw(temperature=1.0, top_p=1e-6)) == model.write(["They"], 12)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    edit(folder, model_type="gpt_bigcode")
    with pytest.raises(ArtifactError, match=r"architecture 'gpt_bigcode'.*only llama"):
        HuggingFaceText.of_folder(folder, "m", "1", "cpu")


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    model = HuggingFaceText.of_folder(write_folder(tmp_path / "model"), "broken", "1", "cpu")
    with torch.no_grad():
        model.network.model.base_model.norm.weight[0] = float("nan")
    with pytest.raises(ArtifactError, match="the model broken gives a likelihood that is not finite"):
        model.likelihoods(REQUESTS[:1])


def test_a_continuation_without_tokens_is_refused(model: HuggingFaceText) -> None:
    with pytest.raises(InputError, match="has no token"):
        model.likelihoods([Continuation("They", "")])
