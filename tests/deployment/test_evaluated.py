"""A served model is evaluated over HTTP as it is evaluated in this process."""

import httpx
import numpy as np
import pytest

from components.core.errors import InputError
from components.data.special_tokens import END_OF_TEXT
from components.evaluation.evaluate_config import EndpointConfig
from components.evaluation.text_models.base import Continuation
from components.evaluation.text_models.endpoint import EndpointModel
from components.evaluation.text_models.ours import LacewingModel
from components.model.bundle import Bundle
from tests.deployment.conftest import SENTENCES

REQUESTS = [
    Continuation("The history of the harbour", " begins with the lighthouse"),
    Continuation("The history of the ", "harbour begins"),
    Continuation("", "She was born in Brackwater"),
    Continuation("東京の歴史は", "長い。🙂"),
]


@pytest.fixture(scope="module")
def served(client: httpx.Client) -> EndpointModel:
    return endpoint(client, start=END_OF_TEXT)


@pytest.fixture(scope="module")
def here(bundle: Bundle) -> LacewingModel:
    return LacewingModel.of_bundle(bundle, "tiny", "cpu")


def endpoint(client: httpx.Client, **config: object) -> EndpointModel:
    settings = {"parallel_texts": 3, "context_length": 4096, **config}
    return EndpointModel("tiny", f"{client.base_url}/v1", "tiny", EndpointConfig.model_validate(settings))


def test_likelihoods_over_http_are_those_of_the_model(served: EndpointModel, here: LacewingModel) -> None:
    for far, near in zip(served.likelihoods(REQUESTS), here.likelihoods(REQUESTS), strict=True):
        assert far.log_likelihood == pytest.approx(near.log_likelihood, abs=1e-3)
        assert (far.tokens, far.greedy) == (near.tokens, near.greedy)


def test_tokens_of_documents_are_those_of_the_model(served: EndpointModel, here: LacewingModel) -> None:
    for text, far, near in zip(SENTENCES, served.token_scores(SENTENCES), here.token_scores(SENTENCES), strict=True):
        assert far.sizes.sum() == len(text.encode())
        assert far.nats == pytest.approx(near.nats, abs=1e-3)
        assert far.confidence == pytest.approx(near.confidence, abs=1e-3)
        # Every embedding before the first token is zero, so that all tokens are equally likely there.
        assert np.array_equal(far.right[1:], near.right[1:])


def test_a_long_document_is_sent_in_parts_that_add_up(client: httpx.Client) -> None:
    (scores,) = endpoint(client, start=END_OF_TEXT, max_characters=40).token_scores([SENTENCES[0]])
    assert scores.sizes.sum() == len(SENTENCES[0].encode())
    assert np.isfinite(scores.nats).all()


def test_text_over_http_is_that_of_the_model(served: EndpointModel, here: LacewingModel) -> None:
    prompts = ["The history of", "She was born"]
    far, near = served.write(prompts, 8), here.write(prompts, 8)
    assert [each.text for each in far] == [each.text for each in near]


def test_without_a_start_token_the_first_token_of_a_text_is_refused_with_what_to_do(client: httpx.Client) -> None:
    unstarted = endpoint(client)
    with pytest.raises(InputError, match=r"no probability to the first token.*evaluate\.endpoint\.start"):
        unstarted.token_scores(["She was born"])
    (found,) = unstarted.likelihoods(REQUESTS[:1])  # its first token is of the context
    assert found.tokens > 0
