"""Streams of bytes and characters, however they are cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from components.deployment.text_stream import Detokenizer, StopMatcher


def _cut(whole: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({0, len(whole), *(place % (len(whole) + 1) for place in places)})
    return [whole[a:b] for a, b in pairwise(borders)]


@given(st.text(), st.lists(st.integers(0, 1000)))
def test_pieces_of_a_text_join_to_the_text_whatever_the_cuts(text: str, places: list[int]) -> None:
    detokenizer = Detokenizer()
    assert "".join(map(detokenizer.push, _cut(text.encode(), places))) == text


@given(st.text(min_size=1), st.integers(0, 1000))
def test_a_text_that_ends_inside_a_character_is_shown_up_to_the_last_whole_one(text: str, place: int) -> None:
    whole = text.encode()
    part = whole[: place % len(whole)]
    shown = "".join(map(Detokenizer().push, [part]))
    assert shown == part.decode(errors="ignore")


@given(st.binary(), st.lists(st.integers(0, 1000)))
def test_bytes_that_are_no_text_become_the_same_characters_whatever_the_cuts(whole: bytes, places: list[int]) -> None:
    in_pieces, at_once = Detokenizer(), Detokenizer()
    shown = "".join(map(in_pieces.push, _cut(whole, places)))
    assert shown == at_once.push(whole)
    assert whole.decode(errors="replace").startswith(shown)
    assert shown.encode().decode() == shown


def _first_completed(text: str, stops: list[str]) -> str | None:
    """Plain reference: read character by character, and cut where a stop string is complete (the longest)."""
    for end in range(1, len(text) + 1):
        if matches := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, matches))]
    return None


_letters = st.text(alphabet="ab", max_size=12)


@given(st.lists(_letters), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=4))
def test_stop_strings_cut_at_the_same_place_however_the_text_arrives(deltas: list[str], stops: list[str]) -> None:
    text = "".join(deltas)
    matcher = StopMatcher(stops)
    shown = ""
    for delta in deltas:
        shown += matcher.push(delta)
        assert text.startswith(shown)
    expected = _first_completed(text, stops)
    assert matcher.stopped == (expected is not None)
    assert shown + matcher.finish() == (text if expected is None else expected)


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert StopMatcher([]).push("at once") == "at once"


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(["\n\n", "END"])
    assert [matcher.push(delta) for delta in ("some\n", "more E", "N", "ough")] == ["some", "\nmore ", "", "ENough"]
