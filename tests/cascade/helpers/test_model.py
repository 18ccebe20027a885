from pathlib import Path

import pytest
import torch

from components.cascade.config import CascadeConfig, ReturnUnit
from components.cascade.decoding import Cascade, CascadeRequest
from components.cascade.helpers.base import Call, Helper, HelperError, Reply
from components.cascade.helpers.model import ModelHelper
from components.cascade.reply_tokens import reply_ids
from components.cascade.reply_unit import first_unit
from components.core.errors import ArtifactError
from components.data.tokenizer import TextTokenizer, save_tokenizer
from components.model.checkpoint import save_model
from components.model.generate import Sampling, generate
from components.model.transformer import Transformer
from tests.fakes import SENTENCES, SHAPE, calibration, speaker, start, tokenizer

TOKENS, OTHER = tokenizer(), tokenizer(320)
LARGE_SHAPE = SHAPE.model_copy(update={"name": "large", "width": 96, "context_length": 128})
LARGE = speaker(TOKENS, 1, LARGE_SHAPE)
LARGE_OTHER = speaker(OTHER, 2, LARGE_SHAPE)
PREFIXES = [sentence[: 9 * (i + 1)] for i, sentence in enumerate(SENTENCES)]


def helper(same: bool = True, max_sessions: int = 64) -> ModelHelper:
    model, tokens = (LARGE, TOKENS) if same else (LARGE_OTHER, OTHER)
    return ModelHelper(model, tokens, same_tokenizer=same, max_sessions=max_sessions)


def call(text: str, session: str = "s", unit: ReturnUnit = "word", max_tokens: int = 8) -> Call:
    return Call(session, text, tuple(start(TOKENS, text)), unit, max_tokens)


def texts(replies: list[Reply | HelperError]) -> list[str]:
    assert all(isinstance(reply, Reply) for reply in replies), replies
    return [reply.text for reply in replies if isinstance(reply, Reply)]


def expected(text: str, unit: ReturnUnit, max_tokens: int, same: bool = True) -> str:
    """The unit at the beginning of what the larger model writes alone."""
    model, tokens = (LARGE, TOKENS) if same else (LARGE_OTHER, OTHER)
    silent = frozenset([tokens.padding_id, tokens.im_start_id, tokens.call_id])
    sampling = Sampling(temperature=0, max_tokens=max_tokens, suppress_ids=silent)
    written = [step.token for step in generate(model, start(tokens, text), sampling)]
    if unit == "token":
        return tokens.decode(written[:1])
    for count in range(1, max_tokens + 1):
        found, ended = first_unit(tokens.decode(written[:count]), unit)
        if ended:
            return found
    return found


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("unit", ["token", "word", "entity"])
def test_a_batch_of_calls_is_answered_as_the_larger_model_would_go_on(same: bool, unit: ReturnUnit) -> None:
    calls = [call(prefix, str(at), unit) for at, prefix in enumerate(PREFIXES)]
    replies = helper(same).answer(calls)
    assert texts(replies) == [expected(prefix, unit, 8, same) for prefix in PREFIXES]
    assert all(isinstance(reply, Reply) and 1 <= reply.tokens <= 8 for reply in replies)


@pytest.mark.parametrize("same", [True, False])
def test_it_reads_only_what_is_new_and_answers_as_if_it_had_read_everything(same: bool) -> None:
    large = helper(same)
    read: list[int] = []
    model = LARGE if same else LARGE_OTHER
    text = PREFIXES[2]
    texts(large.answer([call(text)]))
    hook = model.embedding.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].shape[1]))
    try:
        for more in (" in 1987", " and he", " lived"):
            text += more
            reply = large.answer([call(text)])
            assert read[0] <= len((TOKENS if same else OTHER).encode(more)) + 8
            read.clear()
            assert texts(reply) == texts(helper(same).answer([call(text)]))
            read.clear()
    finally:
        hook.remove()


def test_a_text_that_goes_another_way_is_read_from_where_it_parts() -> None:
    large = helper()
    large.answer([call("Zofia was born in Lublin and lived"), call("Jan worked", "other")])
    for text in ("Zofia was born in Łódź", "Zofia", "Zofia was born in Łódź and"):
        assert texts(large.answer([call(text)])) == [expected(text, "word", 8)]


def test_a_small_model_with_the_helpers_tokenizer_and_all_calls_writes_what_the_helper_writes() -> None:
    small = speaker(TOKENS, 3)
    asked = Cascade(small, TOKENS, helper(), calibration(), CascadeConfig(budget=1.0, unit="token"))
    prompts = [start(TOKENS, prefix) for prefix in PREFIXES]
    answers = asked.answers([CascadeRequest(prompt, Sampling(temperature=0, max_tokens=12)) for prompt in prompts])
    silent = frozenset([TOKENS.padding_id, TOKENS.im_start_id, TOKENS.call_id])
    for prompt, answer in zip(prompts, answers, strict=True):
        sampling = Sampling(temperature=0, max_tokens=12, suppress_ids=silent)
        alone = [step.token for step in generate(LARGE, prompt, sampling)]
        assert TOKENS.decode(answer.ids) == TOKENS.decode(alone)[: len(TOKENS.decode(answer.ids))]
        assert {token.author for token in answer.tokens} == {"helper"}


def test_with_another_tokenizer_the_cascade_speaks_the_helpers_text() -> None:
    small = speaker(TOKENS, 3)
    asked = Cascade(small, TOKENS, helper(same=False), calibration(), CascadeConfig(budget=1.0, unit="word"))
    prompt = start(TOKENS, PREFIXES[1])
    (answer,) = asked.answers([CascadeRequest(prompt, Sampling(temperature=0, max_tokens=15))])
    text, ids = PREFIXES[1], list(prompt)
    while len(ids) < len(prompt) + 15:
        word = expected(text, "word", 16, same=False)
        ids += reply_ids(TOKENS, ids, word)
        text += word
    assert answer.ids == ids[len(prompt) : len(prompt) + 15]


def test_sessions_beyond_the_limit_are_read_anew_and_forgotten_ones_leave_no_trace() -> None:
    large = helper(max_sessions=2)
    for turn in range(3):
        for at, prefix in enumerate(PREFIXES[:4]):
            text = prefix + " in 1987" * turn
            assert texts(large.answer([call(text, str(at))])) == [expected(text, "word", 8)]
            assert len(large._sessions) == len(large._rows) == len(large._cache.lengths) <= 2
    for session in ("0", "1", "2", "3", "never"):
        large.forget(session)
    assert large._cache.lengths == []


def test_one_batch_may_hold_several_calls_of_a_request() -> None:
    """In any order: the later of them need not go on from the earlier."""
    large = helper()
    made = [PREFIXES[2], PREFIXES[3], PREFIXES[2] + " and he", PREFIXES[2][:8]]
    sessions = ["s", "other", "s", "s"]
    replies = large.answer([call(text, session) for text, session in zip(made, sessions, strict=True)])
    assert texts(replies) == [expected(text, "word", 8) for text in made]
    assert len(large._rows) == 2


def test_one_batch_may_hold_more_calls_than_sessions_are_kept() -> None:
    calls = [call(prefix, str(at)) for at, prefix in enumerate(PREFIXES)]
    assert texts(helper(max_sessions=1).answer(calls)) == texts(helper().answer(calls))


def test_a_text_longer_than_the_helpers_context_is_continued_from_its_end() -> None:
    large = helper()
    text = "Jan Nowak was born in Lublin. "
    for _ in range(12):
        text += "He worked as a weaver. "
        (reply,) = large.answer([call(text)])
        assert isinstance(reply, Reply)
        assert reply.text.strip()
    assert len(start(TOKENS, text)) > LARGE_SHAPE.context_length


def test_an_answer_that_would_end_the_document_is_empty() -> None:
    model = speaker(TOKENS, 1, LARGE_SHAPE)
    with torch.no_grad():
        hidden = model(torch.tensor([start(TOKENS, "Jan")]))[0, -1]
        model.embedding.weight[TOKENS.end_of_text_id] = 100 * hidden
        model.embedding.weight[TOKENS.call_id] = 1000 * hidden  # suppressed: else it would come first
    large = ModelHelper(model, TOKENS, same_tokenizer=False)
    # The changed rows change the hidden states as well, so ask where the argmax still is the end.
    (reply,) = large.answer([call("Jan")])
    assert isinstance(reply, Reply)
    assert (reply.text, reply.tokens) == ("", 1)


def test_it_is_a_helper_that_works_or_says_why_not() -> None:
    good = helper()
    assert isinstance(good, Helper)
    assert good.name == "model large"
    good.check()
    good.close()
    broken = Transformer(LARGE_SHAPE, TOKENS.vocab_size)
    with torch.no_grad():
        broken.embedding.weight.fill_(float("nan"))
    with pytest.raises(HelperError, match="no finite prediction"):
        ModelHelper(broken, TOKENS, same_tokenizer=True).check()


def test_folders_say_whether_ids_can_be_handed_over(tmp_path: Path) -> None:
    for name, model, tokens in (("a", LARGE, TOKENS), ("b", LARGE_OTHER, OTHER)):
        save_model(model, tmp_path / name, tokens.special)
        save_tokenizer(tokens._tokenizer, tmp_path / name)
    same = ModelHelper.load(tmp_path / "a", tmp_path / "a")
    other = ModelHelper.load(tmp_path / "b", tmp_path / "a")
    assert (same._same, other._same) == (True, False)
    assert texts(same.answer([call(PREFIXES[0])])) == texts(helper().answer([call(PREFIXES[0])]))
    assert texts(other.answer([call(PREFIXES[0])])) == texts(helper(same=False).answer([call(PREFIXES[0])]))
    with pytest.raises(ArtifactError, match=r"holds no tokenizer\.json"):
        ModelHelper.load(tmp_path, tmp_path / "a")
    with pytest.raises(ArtifactError, match="do not belong together"):
        ModelHelper(LARGE, TextTokenizer(OTHER._tokenizer), same_tokenizer=True)
