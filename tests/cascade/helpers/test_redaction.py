"""What must not leave this machine is replaced, and comes back where the helper repeats it."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.cascade.helpers.base import Reply
from components.cascade.helpers.endpoint import EndpointHelper
from components.cascade.helpers.redaction import Redaction
from tests.cascade.helpers.conftest import call
from tests.clients.server import Server

# Made up, and put together here so that no scanner takes this file for a leak.
SECRETS = {
    "KEY": "-----BEGIN RSA PRIVATE" + " KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE" + " KEY-----",
    "JWT": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
    "OPENAI": "sk-" + "proj-Ab12Cd34Ef56Gh78Ij90",
    "GITHUB": "ghp_" + "0123456789abcdefghijABCDEFGHIJ",
    "AWS": "AKIA" + "IOSFODNN7EXAMPLE",
    "SLACK": "xoxb-" + "123456789012-abcdefGHIJKL",
    "EMAIL": "ada.lovelace+notes@analytical-engine.example.org",
    "IBAN": "DE89 3704 0044 0532 0130 00",
    "CARD": "4111 1111 1111 1111",
    "SOCIAL": "078-05-1120",
    "PHONE": "+49 (30) 1234-5678",
    "NETWORK": "192.168.17.203",
}
IN_CONTEXT = {
    "the password is hunter22 for all": "hunter22",
    'api_key = "q9w8e7r6t5"': "q9w8e7r6t5",
    "postgresql://joe:s3cr3tpw@db.example/x": "s3cr3tpw",
}
HARMLESS = [
    "The word token has many meanings, and so has the word secret.",
    "It was founded on 12-05-1987 and had 1,234,567,890,123 visitors in 2,001 days.",
    "Version 1.2.3 came after 1.2.2.9.1; call 112; ISBN 978-3-16-148410-1; pi is 3.14159265358979.",
    "4111 1111 1111 1112 fails the check of cards, and DE88 3704 0044 0532 0130 00 that of accounts.",
    "He wrote @ada and [EMAIL_9] and a-skeleton-key-of-considerable-length.",
]


@pytest.mark.parametrize("kind", SECRETS)
def test_every_kind_is_hidden_wherever_it_stands_and_restored(kind: str) -> None:
    secret = SECRETS[kind]
    for text in (secret, f"Write to {secret}, please.", f"({secret})", f"first {secret} then {secret}\nend"):
        redaction = Redaction()
        hidden = redaction.hide(text)
        assert secret not in hidden
        assert len(redaction.placeholders) == 1
        assert redaction.restore(hidden) == text


@pytest.mark.parametrize("text", IN_CONTEXT)
def test_what_is_secret_by_the_words_before_it_is_hidden_everywhere_in_the_text(text: str) -> None:
    secret = IN_CONTEXT[text]
    redaction = Redaction()
    hidden = redaction.hide(f"{text} ... x{secret}y")
    assert secret not in hidden
    assert redaction.restore(hidden) == f"{text} ... x{secret}y"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    redaction = Redaction()
    assert redaction.hide(text) == text
    assert redaction.restore(text) == text


def test_the_same_value_has_the_same_placeholder_and_others_their_own() -> None:
    redaction = Redaction()
    assert redaction.hide("a@b.org c@d.org a@b.org") == "[EMAIL_1] [EMAIL_2] [EMAIL_1]"


def test_a_text_that_ends_while_it_repeats_a_secret_does_not_show_its_beginning() -> None:
    secret = SECRETS["EMAIL"]
    for length in range(4, len(secret)):
        hidden = Redaction().hide(f"Mail {secret}. Her address is {secret[:length]}")
        assert hidden.startswith("Mail [EMAIL_1]. Her address is [EMAIL_")
        assert secret[:4] not in hidden


def test_a_placeholder_that_was_cut_off_is_left_out_of_the_reply() -> None:
    redaction = Redaction()
    redaction.hide("a@b.org")
    assert redaction.restore(" to [EMA") == " to "
    assert redaction.restore(" to [EMAIL_1") == " to "
    assert redaction.restore(" in [1] and [b]") == " in [1] and [b]"


@given(st.text(max_size=60), st.sampled_from(sorted(SECRETS.values())), st.text(max_size=60))
def test_whatever_is_around_it_the_text_comes_back(before: str, secret: str, after: str) -> None:
    text = f"{before} {secret} {after}"
    redaction = Redaction()
    hidden = redaction.hide(text)
    assert secret not in hidden
    if not any(text.endswith(value[:4]) for value in redaction.placeholders):
        assert redaction.restore(hidden).startswith(text[: len(before)])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def test_no_secret_of_a_tenth_of_the_prompts_reaches_the_helper(server: Server) -> None:
    draw = random.Random(0)
    secrets = [*SECRETS.values(), *IN_CONTEXT]
    values = [*SECRETS.values(), *IN_CONTEXT.values()]
    prompts = [
        f"Question {number}: who keeps {draw.choice(secrets) if number % 10 == 0 else 'the lamp'} at {number}?"
        for number in range(1000)
    ]
    helper = EndpointHelper(server.url, redact="on")
    for first in range(0, len(prompts), 20):
        helper.answer([call(prompt) for prompt in prompts[first : first + 20]])
    sent = "\n".join(prompt for body in server.bodies for prompt in body["prompt"])
    assert sent.count("Question") == 1000
    assert sum(any(value in prompt for value in values) for prompt in prompts) == 100
    assert [value for value in values if value in sent] == []


def test_a_reply_that_names_the_placeholder_names_the_value(server: Server) -> None:
    server.complete = lambda prompt: " [SECRET_1] again"
    (reply,) = EndpointHelper(server.url, redact="on").answer([call("The password is hunter22. Once more:")])
    assert isinstance(reply, Reply)
    assert server.bodies[0]["prompt"] == "The password is [SECRET_1]. Once more:"
    assert reply.text == " hunter22"


def test_by_default_a_server_on_this_machine_reads_all_and_one_elsewhere_does_not(server: Server) -> None:
    EndpointHelper(server.url).answer([call("Write to a@b.org")])
    assert server.bodies[0]["prompt"] == "Write to a@b.org"
    assert EndpointHelper("http://192.0.2.1/v1")._redacts
    assert not EndpointHelper("http://192.0.2.1/v1", redact="off")._redacts
