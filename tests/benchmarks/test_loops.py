import pytest

from benchmarks.loops import loops


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ("The Matter was led by Ada. The Matter was led by Ada. The", True),
        ("She was the last of the last of the last of", True),
        ("It began in Bracks in spring. It was short. It began in Bracks in spring.", True),
        ("He died. He was old. He died.", False),
        ("It was very very old, and it was very very cold.", False),
        ("", False),
    ],
)
def test_an_answer_loops_if_it_says_the_same_again(text: str, looping: bool) -> None:
    assert loops(text) is looping
