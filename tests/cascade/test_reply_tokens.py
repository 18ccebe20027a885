import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.cascade.reply_tokens import ends_inside_character, reply_fault, reply_ids
from tests.fakes import start, tokenizer

CONTEXTS = ["", "Zofia was born in Łód", "In 19", "She lived in Lu", "the river ", "born in\n", "Jan Nowak" * 30]
REPLIES = ["1987", " 1987", " Łódź", "ź", "blin", " ", "87,", " 3 May 1901", "\n", "é", "👩‍🚀", " <b"]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_continues_the_text_exactly_and_changes_nothing_before_it(context: str, reply: str) -> None:
    tokens = tokenizer()
    ids = start(tokens, context)
    added = reply_ids(tokens, ids, reply)
    assert tokens.decode([*ids, *added]) == context + reply
    assert tokens.call_id not in added


@given(context=st.text(max_size=40), reply=st.text(min_size=1, max_size=12))
def test_no_text_is_lost_at_the_border(context: str, reply: str) -> None:
    tokens = tokenizer()
    ids = start(tokens, context)
    assert tokens.decode([*ids, *reply_ids(tokens, ids, reply)]) == context + reply


@pytest.mark.parametrize(("context", "reply"), [("born in", " Łódź"), ("In", " 1987"), ("lived in Lublin", " and")])
def test_where_the_border_is_stable_the_ids_are_those_of_the_whole_text(context: str, reply: str) -> None:
    tokens = tokenizer()
    ids = start(tokens, context)
    assert [*ids, *reply_ids(tokens, ids, reply)] == start(tokens, context + reply)


def test_a_word_completed_by_the_helper_keeps_the_ids_of_its_beginning() -> None:
    tokens = tokenizer()
    ids = start(tokens, "born in Lu")
    whole = start(tokens, "born in Lublin")
    assert whole[: len(ids)] != ids  # together they would be cut otherwise
    assert reply_ids(tokens, ids, "blin") == tokens.encode("blin")


def test_long_contexts_are_cut_as_the_whole_would_be() -> None:
    tokens = tokenizer()
    text = "Jan Nowak was born in Lublin on 3 May 1901, and worked as a weaver. " * 8 + "He lived in"
    ids = start(tokens, text)
    assert [*ids, *reply_ids(tokens, ids, " Łódź")] == start(tokens, text + " Łódź")


def test_a_special_token_in_the_context_is_a_border_of_text() -> None:
    tokens = tokenizer()
    ids = [*tokens.encode("In"), tokens.im_start_id]
    assert reply_ids(tokens, ids, " 1987") == tokens.encode(" 1987")


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (" Łódź", None),
        ("line\n\tnext", None),
        ("bell\x07", "control characters"),
        ("\x00", "control characters"),
        ("bro\ufffdken", "not valid UTF-8"),
        ("half \ud800 pair", "not text that can be encoded"),
        ("x" * 129, "129 characters, 4 tokens were asked for"),
        ("<CALL>", "contains the special token <CALL>"),
        ("end<|im_end|>", r"contains the special token <\|im_end\|>"),
    ],
)
def test_replies_that_are_no_text_are_told_from_those_that_are(reply: str, fault: str | None) -> None:
    found = reply_fault(reply, 4)
    if fault is None:
        assert found is None
    else:
        assert found is not None
        assert fault.replace("\\", "") in found


def test_half_a_character_is_seen() -> None:
    for text in ("Łódź", "👩", "a漢"):
        whole = text.encode()
        assert not ends_inside_character(whole)
        assert ends_inside_character(whole[:-1])
    assert not ends_inside_character(b"")
    assert not ends_inside_character(b"ab\xff")
