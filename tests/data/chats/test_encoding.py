"""What is trained on is what a server encodes."""

from pathlib import Path

import pytest

from components.core.errors import InputError
from components.data.chats.conversation import Conversation, conversation
from components.data.chats.encoding import ChatEncoder, check_template
from components.data.special_tokens import CHAT_TEMPLATE_FILE
from components.data.tokenizer import save_tokenizer
from tests import fakes

TOKENS = fakes.tokenizer()
SAID = [
    ("system", "Be brief, and say <|im_end|> never."),
    ("user", "Where was Zofia Kowalska born?"),
    ("assistant", "In Łódź."),
    ("user", "  And when?\n"),
    ("assistant", "\n\nIn 1987, they say.\n\n1987 it was."),
    ("user", "Thank you."),
]


def chat(length: int = len(SAID)) -> Conversation:
    return conversation("here", SAID[:length])


def test_a_conversation_has_the_ids_of_a_server() -> None:
    encoded = ChatEncoder(TOKENS, 512).encode(chat())
    assert encoded is not None
    assert encoded.ids.tolist() == TOKENS.encode_chat(chat().messages(), add_generation_prompt=False)
    assert TOKENS.decode(encoded.ids.tolist()) == chat().text


def test_before_every_answer_stands_exactly_the_prompt_that_a_server_makes() -> None:
    encoded = ChatEncoder(TOKENS, 512).encode(chat())
    assert encoded is not None
    for turn in (2, 4):
        prompt = TOKENS.encode_chat(chat().messages()[:turn], add_generation_prompt=True)
        assert encoded.ids[: len(prompt)].tolist() == prompt
        assert encoded.assistant[len(prompt)]
        assert not encoded.assistant[len(prompt) - 1]


def test_the_mask_holds_what_the_assistant_says_and_the_end_of_its_turn() -> None:
    encoded = ChatEncoder(TOKENS, 512).encode(chat())
    assert encoded is not None
    answers = [TOKENS.encode(turn.content) for turn in chat().turns if turn.role == "assistant"]
    assert encoded.ids[encoded.assistant].tolist() == [id for ids in answers for id in [*ids, TOKENS.im_end_id]]


@pytest.mark.parametrize("kept", [3, 5, 6])
def test_a_longer_conversation_is_cut_after_the_last_answer_that_fits(kept: int) -> None:
    length = len(TOKENS.encode_chat(chat().messages()[:kept], add_generation_prompt=False))
    encoded = ChatEncoder(TOKENS, length + 1).encode(chat())  # the boundary needs a place as well
    assert encoded is not None
    assert encoded.conversation.turns == chat().turns[:kept]
    assert len(encoded.ids) == length
    shorter = ChatEncoder(TOKENS, length).encode(chat())
    assert (len(shorter.conversation.turns) if shorter else 0) == {3: 0, 5: 3, 6: 5}[kept]


def test_a_tokenizer_without_the_template_or_with_another_is_refused(tmp_path: Path) -> None:
    save_tokenizer(TOKENS._tokenizer, tmp_path)
    check_template(tmp_path)
    (tmp_path / CHAT_TEMPLATE_FILE).write_text("{{ messages }}")
    with pytest.raises(InputError, match="another chat template than ChatML"):
        check_template(tmp_path)
    (tmp_path / CHAT_TEMPLATE_FILE).unlink()
    with pytest.raises(InputError, match="has no chat template"):
        check_template(tmp_path)
