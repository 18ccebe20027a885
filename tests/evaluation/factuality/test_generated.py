"""Documents of the closed world, given as answers: the judge must find exactly what was written."""

from collections.abc import Sequence
from typing import Any

import pytest

from components.cascade.config import CascadeConfig
from components.cascade.decoding import Author, Cascade, CascadeAnswer, CascadeSummary, CascadeToken, FinishReason
from components.data.world.facts import facts_of
from components.evaluation.config import BootstrapConfig
from components.evaluation.factuality.generated import Biography, fact_scores, judged, subjects, write_biographies
from tests import fakes
from tests.evaluation.factuality.conftest import Told

CFG = BootstrapConfig(resamples=200)
NAMES = ("name", "surname")


def answer(
    told: Told, text: str, finish: FinishReason = "stop", helper: Sequence[int] = (), ids: Sequence[int] = ()
) -> CascadeAnswer:
    """``text`` as if it had been generated, tokens at the places ``helper`` by the helper."""
    tokens = []
    for place, id in enumerate([*told.tokenizer.encode(text), *ids]):
        author: Author = "helper" if place in helper else "small"
        tokens.append(
            CascadeToken(id=id, author=author, call_probability=0.1, seconds=0.0, helper_seconds=0.0, logprob=-1.0)
        )
    return CascadeAnswer(tuple(tokens), finish, CascadeSummary(decisions=len(tokens), small_tokens=len(tokens)))


def own_document(told: Told) -> tuple[str, dict[str, Any]]:
    """A subject and the longest document that begins with its name."""
    names = {entity.id: entity.name for entity in told.world.table.entities.values()}
    fitting = [
        (names[document["id"].split("/")[0]], document)
        for document in told.documents
        if document["text"].startswith(f"{names[document['id'].split('/')[0]]} ")
    ]
    return max(fitting, key=lambda pair: len(pair[1]["facts"]))


def stated(document: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(start, end, id) for start, end, id in document["facts"] if id.rpartition(".")[2] not in NAMES]


def test_a_document_of_the_world_is_wholly_true(told: Told) -> None:
    name, document = own_document(told)
    text = document["text"]
    biography = judged(told.world, told.tokenizer, name, answer(told, text[len(name) :]))
    assert biography.text == text
    assert [claim[:3] for claim in biography.claims] == stated(document)
    assert all(claim[4] for claim in biography.claims)
    assert biography.understood == biography.sentences > 2
    entity = told.world.table.by_name[name]
    own = {fact.id for fact in facts_of(entity) if fact.relation not in NAMES}
    assert biography.facts == len(own)
    assert biography.stated_true == len({id for _, _, id in stated(document)} & own) > 3
    scores = fact_scores([biography], CFG)
    assert scores.precision == (1.0, 1.0, 1.0)
    assert scores.recall.estimate == pytest.approx(biography.stated_true / len(own))


def test_one_wrong_value_is_one_false_claim(told: Told) -> None:
    name, document = own_document(told)
    text = document["text"]
    facts = {fact.id: fact for entity in told.world.table.entities.values() for fact in facts_of(entity)}
    corrupted = 0
    for start, end, id in stated(document):
        if "year" in id or text[start:end] != facts[id].value:
            continue  # later years may be told relative to it
        others = {
            fact.value for fact in facts.values() if (fact.kind, fact.relation) == (facts[id].kind, facts[id].relation)
        }
        other = min(others - {facts[id].value}, default="")
        if not other:
            continue
        wrong = text[:start] + other + text[end:]
        biography = judged(told.world, told.tokenizer, name, answer(told, wrong[len(name) :]))
        false = [claim for claim in biography.claims if not claim[4]]
        assert [claim[2:4] for claim in false] == [(id, other)], wrong
        assert len(biography.claims) == len(stated(document))
        assert fact_scores([biography], CFG).precision == pytest.approx((1 - 1 / len(biography.claims),) * 3)
        corrupted += 1
    assert corrupted > 2


def test_a_word_that_was_cut_states_nothing(told: Told) -> None:
    name, document = own_document(told)
    ends = {end for _, end, _ in stated(document)}
    seen = 0
    for end in ends:
        # Whole words and, as far as the reader makes something of them, halves.
        for text in (document["text"][:end], document["text"][: end - 1]):
            finished, cut = (
                judged(told.world, told.tokenizer, name, answer(told, text[len(name) :], finish))
                for finish in ("stop", "length")
            )
            assert cut.text == finished.text == text
            assert cut.claims == [claim for claim in finished.claims if claim[1] <= text.rindex(" ")]
            seen += len(finished.claims) > len(cut.claims)
    assert seen


def test_authors_cover_the_text_also_where_tokens_end_inside_characters(told: Told) -> None:
    name = next(iter(told.world.table.by_name))
    text = " met Łódź 👩‍👩‍👧 in 東京."
    count = len(told.tokenizer.encode(text))
    assert count > len(text.split()) + 5  # bytes of characters that the tokenizer has never seen
    for helper in ([], range(count), range(0, count, 2), [count - 1]):
        biography = judged(told.world, told.tokenizer, name, answer(told, text, helper=list(helper)))
        assert biography.text == name + text
        assert biography.authors[0] == (0, len(name), "given")
        ends = [span[1] for span in biography.authors]
        assert [span[0] for span in biography.authors] == [0, *ends[:-1]]
        assert ends[-1] == len(biography.text)
        assert {span[2] for span in biography.authors[1:]} <= {"small", "helper"}
    last = biography.authors[-1]
    assert last[2] == "helper"
    assert biography.text[last[0] : last[1]].endswith(".")


def test_bytes_that_are_no_text_keep_authors_and_claims_in_place(told: Told) -> None:
    """A model may write half a character and go on: what is shown for it has its author, and moves nothing else."""
    name, document = own_document(told)
    half = told.tokenizer.encode("東")[0]
    assert len(told.tokenizer.token_bytes(half)) == 1
    rest = told.tokenizer.encode(document["text"][len(name) :])
    made = answer(told, "", ids=[half, *rest, half])
    biography = judged(told.world, told.tokenizer, name, made)
    ends = [span[1] for span in biography.authors]
    assert [span[0] for span in biography.authors] == [0, *ends[:-1]]
    assert ends[-1] == len(biography.text)


def biography(claims: Sequence[bool], **values: Any) -> Biography:
    fields = {
        "subject": "s", "text": "t", "authors": [], "facts": 4, "stated_true": 1, "sentences": 2, "understood": 1,
        "decisions": 10, "calls": 2, "failed_calls": 1, "small_tokens": 8, "helper_tokens": 2,
    }  # fmt: skip
    return Biography.model_validate({"claims": [(0, 1, "f", "v", true) for true in claims], **fields, **values})


def test_figures_are_over_all_claims_and_silence_is_neither_right_nor_wrong() -> None:
    found = fact_scores([biography([True, True, False]), biography([False]), biography([], stated_true=0)], CFG)
    assert found.precision is not None
    assert found.precision.estimate == 2 / 4
    assert found.recall.estimate == 2 / 12
    assert (found.claims, found.understood, found.calls, found.helper_tokens) == pytest.approx((4 / 3, 0.5, 0.2, 0.2))
    assert found.failed_calls == 3
    silent = fact_scores([biography([], stated_true=0)], CFG)
    assert (silent.precision, silent.recall.estimate, silent.claims) == (None, 0.0, 0.0)


def test_subjects_are_drawn_once_and_always_the_same(told: Told) -> None:
    names = subjects(told.world, 10)
    assert len(set(names)) == len(names) == 10
    assert set(names) <= set(told.world.table.by_name)
    assert names == subjects(told.world, 10)
    assert set(names) <= set(subjects(told.world, 20))
    assert len(subjects(told.world, 10_000)) == len(told.world.table.by_name)


def test_biographies_are_written_within_their_budget(told: Told) -> None:
    helper = fakes.Told(" Brackwater")
    model = fakes.speaker(told.tokenizer)
    cascade = Cascade(model, told.tokenizer, helper, fakes.calibration(0.0, 1e-9), CascadeConfig())
    names = subjects(told.world, 3)
    alone, asked = (write_biographies(cascade, told.world, told.tokenizer, names, budget, 20) for budget in (0.0, 0.2))
    for without, with_calls, name in zip(alone, asked, names, strict=True):
        assert without.subject == with_calls.subject == name
        assert without.text.startswith(name)
        assert without.calls == without.helper_tokens == 0
        assert with_calls.calls == 4  # as many as it may: all scores are above the threshold
        assert with_calls.text.startswith(f"{name} Brackwater")
        assert with_calls.helper_tokens >= with_calls.calls
        assert any(author == "helper" for _, _, author in with_calls.authors)
    refusing = fakes.calibration(factual=False)
    cascade = Cascade(model, told.tokenizer, helper, refusing, CascadeConfig())
    again = write_biographies(cascade, told.world, told.tokenizer, names, 0.2, 20)
    assert [each.text for each in again] == [each.text for each in alone]
