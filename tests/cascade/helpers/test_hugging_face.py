"""A helper that is a model of somebody else: it answers as ``transformers.generate`` would go on with the text."""

from pathlib import Path
from typing import Any

import pytest
import torch

from components.cascade.config import CascadeConfig, HelperConfig, ReturnUnit
from components.cascade.decoding import Cascade, CascadeRequest
from components.cascade.helpers import open_helper
from components.cascade.helpers.base import Call, Helper, HelperError, Reply
from components.cascade.helpers.hugging_face import HuggingFaceHelper
from components.cascade.reply_tokens import reply_ids
from components.cascade.reply_unit import first_unit
from components.core.errors import ArtifactError
from components.data.tokenizer import save_tokenizer
from components.model.checkpoint import save_model
from components.model.families.hugging_face import load_hugging_face
from components.model.generate import Sampling
from tests.fakes import SENTENCES, SHAPE, calibration, speaker, start, tokenizer
from tests.hugging_face_folders import edit, write_folder

TOKENS = tokenizer()
PREFIXES = [sentence[: 9 * (i + 1)].rstrip() for i, sentence in enumerate(SENTENCES)]
FAMILIES = ["llama", "qwen3"]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp(request.param), request.param, seed=3)


def call(text: str, session: str = "s", unit: ReturnUnit = "word", max_tokens: int = 8) -> Call:
    return Call(session, text, tuple(start(TOKENS, text)), unit, max_tokens)


def texts(replies: list[Reply | HelperError]) -> list[str]:
    assert all(isinstance(reply, Reply) for reply in replies), replies
    return [reply.text for reply in replies if isinstance(reply, Reply)]


def expected(folder: Path, text: str, unit: ReturnUnit, max_tokens: int = 8) -> str:
    """The first unit of what transformers generates behind the text."""
    found = load_hugging_face(folder)
    ids = found.encode(text)
    written: list[int] = found.model.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=max_tokens, suppress_tokens=sorted(found.silent_ids)
    )[0, len(ids) :].tolist()
    unit_text = ""
    for count in range(1, len(written) + 1):
        if written[count - 1] in found.end_ids:
            break
        said = found.continuation(ids, written[:count])
        if said.endswith("\ufffd") and count < max_tokens:
            continue
        unit_text, ended = first_unit(said.rstrip("\ufffd"), unit)
        if ended:
            break
    return unit_text


@pytest.mark.parametrize("unit", ["token", "word", "entity"])
def test_calls_are_answered_as_transformers_would_go_on(folder: Path, unit: ReturnUnit) -> None:
    calls = [call(prefix, str(at), unit) for at, prefix in enumerate(PREFIXES)]
    replies = HuggingFaceHelper.load(folder).answer(calls)
    assert texts(replies) == [expected(folder, prefix, unit) for prefix in PREFIXES]
    assert all(isinstance(reply, Reply) and 1 <= reply.tokens <= 8 for reply in replies)


def test_it_reads_only_what_is_new_and_answers_as_if_it_had_read_everything(folder: Path) -> None:
    helper = HuggingFaceHelper.load(folder)
    read: list[int] = []
    model = helper._model.model
    text = SENTENCES[2]
    texts(helper.answer([call(text)]))
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda m, ids: read.append(ids[0].shape[1]))
    try:
        for more in (" In 1987", " he moved", " on"):
            text += more
            reply = helper.answer([call(text)])
            assert read[0] <= len(more) + 2
            assert texts(reply) == [expected(folder, text, "word")]
            read.clear()
    finally:
        hook.remove()


def test_a_text_that_goes_another_way_is_read_from_where_it_parts(folder: Path) -> None:
    helper = HuggingFaceHelper.load(folder)
    helper.answer([call("Zofia was born in Lublin and lived"), call("Jan worked", "other")])
    for text in ("Zofia was born in Łódź", "Zofia", "", "Zofia was born in Łódź and"):
        assert texts(helper.answer([call(text)])) == [expected(folder, text, "word")]


def test_what_slides_out_of_the_window_of_a_model_can_still_be_cut_back(tmp_path: Path) -> None:
    write_folder(tmp_path, "mistral", seed=5)
    edit(tmp_path, sliding_window=8)
    helper = HuggingFaceHelper.load(tmp_path)
    for text in (SENTENCES[1], SENTENCES[1][:40], SENTENCES[1][:40] + " and"):
        assert texts(helper.answer([call(text)])) == [expected(tmp_path, text, "word")]


def test_a_text_longer_than_the_context_is_continued_from_its_end(folder: Path) -> None:
    helper = HuggingFaceHelper.load(folder)
    text = " ".join(SENTENCES)
    assert len(helper._model.encode(text)) > helper._model.context_length
    for more in ("", " He worked", " as a weaver"):
        text += more
        (reply,) = helper.answer([call(text)])
        assert isinstance(reply, Reply)
        assert reply.text


def test_sessions_beyond_the_limit_are_read_anew_and_forgotten_ones_leave_no_trace(folder: Path) -> None:
    helper = HuggingFaceHelper(load_hugging_face(folder), max_sessions=2)
    for turn in range(2):
        for at, prefix in enumerate(PREFIXES[:3]):
            text = prefix + " in 1987" * turn
            assert texts(helper.answer([call(text, str(at))])) == [expected(folder, text, "word")]
            assert len(helper._sessions) <= 2
    for session in ("0", "1", "2", "never"):
        helper.forget(session)
    assert not helper._sessions


def test_an_answer_that_would_end_the_document_is_empty(folder: Path) -> None:
    model = load_hugging_face(folder)
    ids = model.encode("Jan")
    with torch.no_grad():
        logits = model.model(torch.tensor([ids])).logits[0, -1]
        logits[sorted(model.silent_ids)] = float("-inf")
    ends = frozenset([int(logits.argmax())])
    helper = HuggingFaceHelper(
        type(model)(model.name, model.model, model.tokenizer, 96, model.start_id, ends, model.silent_ids)
    )
    (reply,) = helper.answer([call("Jan")])
    assert isinstance(reply, Reply)
    assert (reply.text, reply.tokens) == ("", 1)


def test_the_cascade_speaks_its_text_in_tokens_of_its_own(folder: Path) -> None:
    helper = HuggingFaceHelper.load(folder)
    small = speaker(TOKENS, 3)
    asked = Cascade(small, TOKENS, helper, calibration(), CascadeConfig(budget=1.0, unit="word"))
    prompt = start(TOKENS, PREFIXES[1])
    (answer,) = asked.answers([CascadeRequest(prompt, Sampling(temperature=0, max_tokens=12))])
    text, ids = PREFIXES[1], list(prompt)
    while len(ids) < len(prompt) + 12:
        word = expected(folder, text, "word", max_tokens=16)
        assert word, "this seed writes words"
        ids += reply_ids(TOKENS, ids, word)
        text += word
    assert answer.ids == ids[len(prompt) : len(prompt) + 12]


def _opened(folder: Path, small_tokenizer: Path) -> Any:
    return open_helper(HelperConfig(kind="model", model=str(folder)), tokenizer=small_tokenizer)


def test_the_configuration_opens_either_kind_of_folder(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    save_model(speaker(TOKENS, 1), own, TOKENS.special)
    save_tokenizer(TOKENS._tokenizer, own)
    helper = _opened(folder, own)
    assert isinstance(helper, Helper)
    assert helper.name == f"model {folder.name}"
    assert texts(helper.answer([call(PREFIXES[0])])) == [expected(folder, PREFIXES[0], "word")]
    helper.close()
    assert _opened(own, own).name == f"model {SHAPE.name}"


def test_folders_that_cannot_help_are_refused_when_the_helper_is_opened(tmp_path: Path) -> None:
    own, other, silent = tmp_path / "own", tmp_path / "other", tmp_path / "silent"
    save_tokenizer(TOKENS._tokenizer, own)
    edit(write_folder(other), model_type="gpt2")
    with pytest.raises(ArtifactError, match="architecture 'gpt2'"):
        _opened(other, own)
    (other / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"holds no tokenizer\.json"):
        _opened(other, own)
    model = load_hugging_face(write_folder(silent))
    with torch.no_grad():
        model.model.get_output_embeddings().weight.fill_(float("nan"))
    model.model.save_pretrained(silent)
    with pytest.raises(HelperError, match="no finite prediction"):
        _opened(silent, own)
