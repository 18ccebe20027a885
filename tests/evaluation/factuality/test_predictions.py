"""Batched windows against one forward pass for every single position."""

import numpy as np
import torch

from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.evaluation.factuality.predictions import Predictions, predict
from components.labelling.labels import FactBits
from components.model.transformer import Transformer
from tests.evaluation.conftest import SHAPE
from tests.fakes import speaker


def alone(model: Transformer, tokenizer: TextTokenizer, row: list[int], place: int) -> dict[str, float]:
    """What the model says of ``row[place + 1]``: windows advance by half a context, and none begins cold."""
    half = model.config.context_length // 2
    start = max(0, place // half - 1) * half
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([row[start : place + 1]])))[0, -1].double()
    call = logits[tokenizer.call_id].item()
    logits[tokenizer.call_id] = -torch.inf
    log_probabilities = logits.log_softmax(dim=-1)
    spread = log_probabilities.exp() * log_probabilities.clamp_min(-1e9)
    return {
        "predicted": float(logits.argmax()),
        "nats": -log_probabilities[row[place + 1]].item(),
        "entropy": -spread.sum().item(),
        "margin": 1 - log_probabilities.max().exp().item(),
        "call": call - logits.logsumexp(dim=-1).item(),
    }


def test_every_position_is_predicted_as_it_would_be_alone(
    prepared: PreparedData, tokenizer: TextTokenizer, labels: FactBits
) -> None:
    split, model = prepared.shards().splits["test"], speaker(tokenizer, shape=SHAPE)
    lengths = split.documents[:, 1]
    # The longest, the shortest and one between, not in the order of the text.
    chosen = [int(lengths.argmax()), int(lengths.argmin()), int(np.argsort(lengths)[len(lengths) // 2])]
    assert lengths.max() > 2 * model.config.context_length
    rows = [[tokenizer.end_of_text_id, *split.document(i).tolist(), tokenizer.end_of_text_id] for i in chosen]
    expected = [alone(model, tokenizer, row, place) for row in rows for place in range(len(row) - 1)]
    for batch_tokens in (1, 300):
        found = predict(model, tokenizer, split, chosen, labels, batch_tokens)
        for name in ("predicted", "nats", "entropy", "margin", "call"):
            np.testing.assert_allclose(
                getattr(found, name), [each[name] for each in expected], rtol=1e-4, atol=1e-4, err_msg=name
            )
        assert found.gold.tolist() == [id for row in rows for id in row[1:]]
        assert found.place.tolist() == [place for row in rows for place in range(len(row) - 1)]
        assert found.document.tolist() == [number for number, row in enumerate(rows) for _ in row[1:]]
        # The bit of a token stands where the token is predicted; the boundary after the document states nothing.
        bits = []
        for document in chosen:
            start, length = (int(value) for value in split.documents[document, :2])
            bits += [*labels.slice("test", start, start + length).tolist(), False]
        assert found.factual.tolist() == bits
        assert set(bits) == {True, False}
        sizes = [[*(len(tokenizer.token_bytes(id)) for id in row[1:-1]), 0] for row in rows]
        assert found.bytes.tolist() == [size for row in sizes for size in row]


def test_right_and_wrong_follow_from_the_likeliest_token() -> None:
    found = Predictions(
        document=np.zeros(3, dtype=int), place=np.arange(3), gold=np.array([1, 2, 3]), predicted=np.array([1, 0, 0]),
        nats=np.zeros(3), entropy=np.zeros(3), margin=np.zeros(3), call=np.zeros(3),
        factual=np.array([True, True, False]), bytes=np.ones(3, dtype=int),
    )  # fmt: skip
    assert found.right.tolist() == [True, False, False]
    assert found.wrong_facts.tolist() == [False, True, False]


def test_progress_reaches_its_end(prepared: PreparedData, tokenizer: TextTokenizer, labels: FactBits) -> None:
    split = prepared.shards().splits["test"]
    reported: list[float] = []
    predict(speaker(tokenizer, shape=SHAPE), tokenizer, split, [0, 1, 2], labels, 100, reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == 1.0
