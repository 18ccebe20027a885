import pytest

from components.cascade.config import ReturnUnit
from components.cascade.reply_unit import first_unit


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [
        ("word", " Łódź in", (" Łódź", True)),
        ("word", " Łódź", (" Łódź", False)),
        ("word", " Lo\u0301dz\u0301,", (" Lo\u0301dz\u0301", True)),
        ("word", "blin.", ("blin", True)),
        ("word", " 1,234.5 m", (" 1,234.5", True)),
        ("word", " 1987, and", (" 1987", True)),
        ("word", " 1987,", (" 1987", False)),
        ("word", " Rolls-Royce and", (" Rolls-Royce", True)),
        ("word", " O'Neill's", (" O'Neill's", False)),
        ("word", ", and", (",", True)),
        ("word", " ", (" ", False)),
        ("word", "", ("", False)),
        ("word", "漢字 x", ("漢字", True)),
        ("entity", " Jan Nowak was", (" Jan Nowak", True)),
        ("entity", " University of Oxford in", (" University of Oxford", True)),
        ("entity", " University of the", (" University", False)),
        ("entity", " Jan van der Meer.", (" Jan van der Meer", True)),
        ("entity", " Jan de", (" Jan", False)),
        ("entity", " Jan de facto", (" Jan", True)),
        ("entity", " 3 May 1901, and", (" 3 May 1901", True)),
        ("entity", " weaver and", (" weaver", True)),
        ("entity", " Lublin", (" Lublin", False)),
        ("token", " Lub", (" Lub", True)),
    ],
)
def test_the_first_unit_and_whether_it_has_ended(unit: ReturnUnit, text: str, expected: tuple[str, bool]) -> None:
    assert first_unit(text, unit) == expected
