"""Facts as bytes, for tokenizers other than the one that was labelled."""

import numpy as np

from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer, train_tokenizer
from components.evaluation.config import GateConfig
from components.evaluation.gate.documents import Document, held_out_documents, token_sizes
from components.labelling.artifact import Labels


def test_a_token_is_factual_if_any_of_its_bytes_is() -> None:
    factual = np.zeros(10, dtype=bool)
    factual[4:6] = True
    document = Document("test 0", "0123456789", factual, asked=True)
    assert document.factual_tokens(np.array([4, 2, 4])).tolist() == [False, True, False]
    assert document.factual_tokens(np.array([5, 5])).tolist() == [True, True]
    assert document.factual_tokens(np.array([1] * 10)).tolist() == factual.tolist()


def test_the_labels_come_back_for_the_own_tokenizer_and_cover_the_same_text_for_another(
    prepared: PreparedData, fact_labels: Labels
) -> None:
    own, facts = prepared.tokenizer(), fact_labels.facts(prepared)
    documents = held_out_documents(prepared, fact_labels, GateConfig())
    split = prepared.shards().splits["test"]
    other = TextTokenizer(train_tokenizer([document.text.upper() for document in documents], 320))
    assert len(documents) == split.n_documents
    for document in documents:
        start, length = (int(value) for value in split.documents[int(document.name.split()[1]), :2])
        ids = np.array(own.encode(document.text))
        expected = facts.slice("test", start, start + length)
        assert document.factual_tokens(token_sizes(own, ids)).tolist() == expected.tolist()
        foreign = np.array(other.encode(document.text))
        sizes = token_sizes(other, foreign)
        assert sizes.sum() == len(document.raw)
        covered = np.repeat(document.factual_tokens(sizes), sizes)
        assert covered[document.factual].all()


def test_calls_are_carried_out_in_a_part_of_the_documents(prepared: PreparedData, fact_labels: Labels) -> None:
    documents = held_out_documents(prepared, fact_labels, GateConfig(fact_tokens=200))
    asked = [document for document in documents if document.asked]
    assert 0 < len(asked) < len(documents)
    more = held_out_documents(prepared, fact_labels, GateConfig(fact_tokens=600))
    assert {document.name for document in asked} < {document.name for document in more if document.asked}


def test_without_labels_nothing_is_known_to_be_a_fact(prepared: PreparedData) -> None:
    assert not any(document.factual.any() for document in held_out_documents(prepared, None, GateConfig()))
