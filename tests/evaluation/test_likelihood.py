import math
from pathlib import Path

import numpy as np
import pytest
import torch

from components.data.tokenizer import TextTokenizer
from components.evaluation.likelihood import DocumentScores, Ids, score_documents
from components.model.transformer import Transformer

Documents = tuple[list[Ids], list[int]]


def naive(model: Transformer, ids: Ids, tokenizer: TextTokenizer) -> tuple[float, float]:
    """Nats and ``<CALL>`` mass of one document, one prediction at a time, straight from the definition.

    A document within the context sees all that came before. In a longer one, prediction t is made by the window that
    starts at the last multiple of half a context which leaves at least half a context before t.
    """
    row = [tokenizer.end_of_text_id, *map(int, ids), tokenizer.end_of_text_id]
    half = model.config.context_length // 2
    nats = mass = 0.0
    with torch.inference_mode():
        for t in range(1, len(row)):
            start = max(0, (t - 1) // half - 1) * half if len(row) - 1 > 2 * half else 0
            logits = model.logits(model(torch.tensor([row[start:t]])))[0, -1].double()
            mass += logits.softmax(0)[tokenizer.call_id].item()
            logits[tokenizer.call_id] = -math.inf
            nats -= logits.log_softmax(0)[row[t]].item()
    return nats, mass


def score(
    model: Transformer, documents: Documents, tokenizer: TextTokenizer, batch_tokens: int = 512
) -> DocumentScores:
    return score_documents(model, *documents, tokenizer.end_of_text_id, tokenizer.call_id, batch_tokens)


def test_equals_one_prediction_at_a_time(
    trained: Transformer, tokenizer: TextTokenizer, test_documents: Documents
) -> None:
    """Among the documents are some shorter than the context, some of two windows and some of several."""
    ids, n_bytes = test_documents
    order = np.argsort([len(document) for document in ids])[[0, 5, 12, 20, 30, 39]]
    some = [ids[i] for i in order], [n_bytes[i] for i in order]
    lengths = [len(document) + 1 for document in some[0]]
    context = trained.config.context_length
    assert lengths[0] < context < lengths[-3] < 2 * context < lengths[-1]
    result = score(trained, some, tokenizer)
    expected = np.array([naive(trained, document, tokenizer) for document in some[0]])
    np.testing.assert_allclose(result.nats, expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(result.call_mass, expected[:, 1], rtol=1e-4)
    assert result.tokens.tolist() == lengths


@pytest.mark.parametrize("length", [0, 1, 46, 47, 48, 49, 71, 72, 95, 96, 97, 143, 144, 145])
def test_every_prediction_is_made_once_at_every_length_around_a_border(
    untrained: Transformer, tokenizer: TextTokenizer, length: int
) -> None:
    ids = np.random.default_rng(length).integers(5, tokenizer.vocab_size, size=length)
    result = score(untrained, ([ids], [3 * length]), tokenizer)
    assert result.nats[0] == pytest.approx(naive(untrained, ids, tokenizer)[0], rel=1e-5)
    assert result.tokens[0] == length + 1


def test_neither_batching_nor_order_changes_a_score(
    trained: Transformer, tokenizer: TextTokenizer, test_documents: Documents
) -> None:
    ids, n_bytes = test_documents
    together = score(trained, test_documents, tokenizer, batch_tokens=10_000)
    alone = score(trained, test_documents, tokenizer, batch_tokens=1)
    order = np.random.default_rng(0).permutation(len(ids))
    shuffled = score(trained, ([ids[i] for i in order], [n_bytes[i] for i in order]), tokenizer)
    np.testing.assert_allclose(alone.nats, together.nats, rtol=1e-5)
    np.testing.assert_allclose(shuffled.nats, together.nats[order], rtol=1e-5)
    np.testing.assert_allclose(shuffled.call_mass, together.call_mass[order], rtol=1e-4)


def test_a_model_that_calls_at_every_word_keeps_its_likelihood(
    trained: Transformer, tokenizer: TextTokenizer, test_documents: Documents
) -> None:
    """The same model with ``<CALL>`` certain everywhere: as likely a text, and all the mass reported."""
    before = score(trained, test_documents, tokenizer)
    calling = Transformer(trained.config, trained.vocab_size).eval()
    calling.load_state_dict(trained.state_dict())
    with torch.no_grad():
        # The final norm fixes the length of a hidden state, and a huge row along their mean is likelier than any other.
        hidden = trained(torch.tensor([[tokenizer.end_of_text_id, *map(int, test_documents[0][0][:20])]]))[0]
        assert (hidden @ hidden.mean(0) > 0).all()
        calling.output_weight[tokenizer.call_id] = 1000 * hidden.mean(0)
    ids, n_bytes = test_documents
    first = [document[:20] for document in ids[:1]], n_bytes[:1]
    after = score(calling, first, tokenizer)
    np.testing.assert_allclose(after.nats, score(trained, first, tokenizer).nats, rtol=1e-5)
    assert after.call_probability == pytest.approx(1.0, abs=1e-6)
    assert before.call_probability < 0.01


def test_training_lowers_the_score_and_an_untrained_model_is_near_uniform(
    trained: Transformer, untrained: Transformer, tokenizer: TextTokenizer, test_documents: Documents
) -> None:
    chance = score(untrained, test_documents, tokenizer)
    learned = score(trained, test_documents, tokenizer)
    assert math.log(chance.perplexity) == pytest.approx(math.log(tokenizer.vocab_size - 1), rel=0.05)
    assert learned.bits_per_byte < chance.bits_per_byte / 3


def test_bits_per_byte_and_perplexity_follow_their_definitions() -> None:
    scores = DocumentScores(
        nats=np.array([30.0, 10.0]), bytes=np.array([50, 10]), tokens=np.array([15, 5]), call_mass=np.array([0.5, 0.5])
    )
    assert scores.bits_per_byte == pytest.approx(40 / math.log(2) / 60)
    assert scores.perplexity == pytest.approx(math.exp(2))
    assert scores.call_probability == pytest.approx(0.05)


def test_progress_rises_to_one(trained: Transformer, tokenizer: TextTokenizer, test_documents: Documents) -> None:
    seen: list[float] = []
    score_documents(trained, *test_documents, tokenizer.end_of_text_id, tokenizer.call_id, 512, seen.append)
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_saved_scores_are_one_record_per_document(tmp_path: Path) -> None:
    path = tmp_path / "documents.npy"
    DocumentScores(np.array([1.5, 2.5]), np.array([3, 4]), np.array([5, 6]), np.array([0.1, 0.2])).save(path)
    table = np.load(path, allow_pickle=False)
    assert table["nats"].tolist() == [1.5, 2.5]
    assert table["bytes"].tolist() == [3, 4]
    assert table["tokens"].tolist() == [5, 6]
    assert table["call_mass"].tolist() == [0.1, 0.2]
