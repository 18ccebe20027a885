import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.cascade.config import CascadeConfig
from components.cascade.decoding import Cascade
from components.cascade.helpers.base import HelperError
from components.core.errors import InputError
from components.evaluation.config import BootstrapConfig, ProbesConfig
from components.evaluation.factuality.probes import answers_with, ask, probe_results, read_probes, run_probes
from components.evaluation.factuality.real_text import ProbeAnswer
from tests.conftest import SHARED_DATA
from tests.fakes import Told, calibration, speaker, tokenizer

CFG = BootstrapConfig(resamples=200)
TOKENS = tokenizer()
MODEL = speaker(TOKENS)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def cascade(helper: Told, budget: float = 0.3, low: float = 0.0, high: float = 1e-9) -> Cascade:
    """Scores above all of the calibration's: it asks as soon as it may."""
    return Cascade(MODEL, TOKENS, helper, calibration(low, high), CascadeConfig(budget=budget))


def answer(relation: str = "", known: bool | None = None, alone: bool = False, cascade: bool = False,
           asked: bool = False, written: str = "") -> ProbeAnswer:  # fmt: skip
    return ProbeAnswer(
        file="f", subject="s", relation=relation, known=known, prompt="p", accepted=["Łódź"], alone=written,
        cascade="", alone_right=alone, cascade_right=cascade, asked=asked, call_probability=0.5, decisions=10,
        calls=int(asked), failed_calls=0,
    )  # fmt: skip


def test_all_ways_of_writing_a_probe_are_read(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"subject": "A", "relation": "P19", "question": "Where was A born?", "answers": ["Łódź"], "in_pretrain": None},
        {"subject": "B", "relation": "P9999", "question": "Who is B?", "answers": ["a poet"], "in_pretrain": "bios"},
        {"entity": "C", "birth_year": "1901", "prompt": "C was born in the year"},
        {"subject": "D", "template": "The river of {subject} is", "answer": "Warta", "aliases": ["Warthe"]},
    ]
    path = write(tmp_path / "p.jsonl.gz", *rows)
    probes = {probe.subject: probe for probe in read_probes(path, 10)}
    assert {name: probe.prompt for name, probe in probes.items()} == {
        "A": "A was born in",
        "B": "Question: Who is B?\nAnswer:",
        "C": "C was born in the year",
        "D": "The river of D is",
    }
    assert [probes[name].known for name in "ABCD"] == [False, True, None, None]
    assert probes["D"].accepted == ("Warta", "Warthe")
    assert (probes["C"].relation, probes["C"].accepted) == ("birth_year", ("1901",))


@pytest.mark.parametrize(("known", "unknown", "limit", "expected"), [(3, 90, 10, 3), (50, 50, 10, 5), (50, 2, 10, 8)])
def test_subjects_of_the_training_text_get_half_of_the_places(
    tmp_path: Path, known: int, unknown: int, limit: int, expected: int
) -> None:
    rows = [
        {"subject": str(i), "relation": "P19", "answers": ["x"], "in_pretrain": "bios" if i < known else None}
        for i in range(known + unknown)
    ]
    probes = read_probes(write(tmp_path / "p.jsonl", *rows), limit)
    assert len(probes) == limit
    assert sum(probe.known is True for probe in probes) == expected
    assert read_probes(tmp_path / "p.jsonl", limit) == probes
    assert len(read_probes(tmp_path / "p.jsonl", 1000)) == known + unknown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"relation": "P19", "answers": ["x"]}', "line 2 is no probe: it needs `subject`"),
        ('{"subject": "A", "relation": "P19"}', "line 2 is no probe: it needs `answers`"),
        ('{"subject": "A", "relation": "P19", "answers": "Rome"}', "a list of texts"),
        ('{"subject": "A", "relation": "P19", "answers": [1901]}', r"given \[1901\]"),
        ('{"subject": "A", "answers": ["x"]}', "needs `prompt`, `template`, `question` or"),
        ('{"subject": "A", "answers": ["x"], "prompt": " "}', "`prompt` is a text that is not empty"),
        ('{"subject": "A", "answers": ["x"], "template": "about"}', r"`template` must hold \{subject\}"),
        ('{"subject": "A", "answers"', "line 2 is not JSON"),
        ("[1]", "line 2 holds list, not a JSON object"),
    ],
)
def test_a_line_that_is_no_probe_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "p.jsonl", {"subject": "A", "relation": "P19", "answers": ["x"]})
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=message):
        read_probes(path, 10)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"facts\.probes\.files names .*nowhere.jsonl, and there is no such file"):
        read_probes(tmp_path / "nowhere.jsonl", 10)
    with pytest.raises(InputError, match="holds no probe"):
        read_probes(write(tmp_path / "empty.jsonl"), 10)
    whole = write(tmp_path / "p.jsonl.gz", {"subject": "A" * 5000, "relation": "P19", "answers": ["x"]}).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_probes(tmp_path / "cut.jsonl.gz", 10)


@pytest.mark.parametrize(
    ("text", "accepted", "right"),
    [
        (" Łódź, where", ["Łódź"], True),
        (" the Netherlands.", ["Netherlands"], True),
        (" Hague", ["The Hague"], True),
        (" a", ["A"], True),
        (" 19870", ["1987"], False),
        (" in Łódź", ["Łódź"], False),
        (" Lodz", ["Łódź", "LODZ"], True),
        ("", ["x"], False),
    ],
)
def test_an_answer_is_right_if_the_text_begins_with_it(text: str, accepted: list[str], right: bool) -> None:
    assert answers_with(text, accepted) == right


@settings(max_examples=40)
@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=3))
def test_whatever_follows_an_answer_it_stays_right(rest: str, accepted: list[str]) -> None:
    for text in accepted:
        if any(character.isalnum() for character in text):
            assert answers_with(f"{text}. {rest}", accepted)


def test_the_cascade_is_asked_beside_the_model_alone(tmp_path: Path) -> None:
    rows = [
        {"subject": "Zofia", "relation": "P19", "answers": ["Toruń"], "in_pretrain": "bios"},
        {"subject": "Jan", "relation": "P19", "answers": ["Poznań"], "in_pretrain": None},
    ]
    probes = ProbesConfig(files=[str(write(tmp_path / "p.jsonl", *rows))], max_tokens=12)
    helper = Told(" Toruń")
    (found,) = run_probes(cascade(helper), TOKENS, probes, CFG, tmp_path / "answers.jsonl")
    # The helper knows the first answer only; the model, which has random weights, neither.
    assert [found.parts[part].cascade.estimate for part in ("all", "head", "tail")] == [0.5, 1.0, 0.0]
    assert all(part.alone.estimate == 0 for part in found.parts.values())
    assert (found.asked, found.asked_where_wrong, found.asked_where_right) == (1.0, 1.0, None)
    assert found.relations == {"P19": (2, 0.0, 0.5)}
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["subject"], line["cascade_right"], line["asked"]) for line in lines] == [
        ("Zofia", True, True),
        ("Jan", False, True),
    ]
    assert lines[0]["cascade"].startswith(" Toruń")
    # floor(0.3 * 12) calls for each, the first where the answer begins.
    assert len(helper.calls) == 6
    assert [call.text.removeprefix("<|endoftext|>") for call in helper.batches[0]] == [
        "Zofia was born in",
        "Jan was born in",
    ]
    assert sum(line["calls"] for line in lines) == 6


def test_without_calls_both_are_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"subject": "Zofia", "relation": "P19", "answers": ["Toruń"]})
    for asked in (cascade(Told(" Toruń"), budget=0.0), cascade(Told(" Toruń"), low=1.0, high=2.0)):
        (found,) = ask(asked, TOKENS, "p", read_probes(path, 5), 12)
        assert found.alone == found.cascade
        assert not found.asked
        assert found.calls == 0


def test_a_failing_helper_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"subject": "Zofia", "relation": "P19", "answers": ["Toruń"]})
    (found,) = ask(cascade(Told(HelperError("down"))), TOKENS, "p", read_probes(path, 5), 12)
    assert found.asked
    assert found.failed_calls == found.calls > 0
    assert found.alone == found.cascade


def test_a_prompt_longer_than_the_context_keeps_its_end(tmp_path: Path) -> None:
    rows = {"subject": "Zofia", "prompt": "and so on " * 400 + "was born in", "answers": ["Toruń"]}
    helper = Told(" Toruń")
    (found,) = ask(cascade(helper), TOKENS, "p", read_probes(write(tmp_path / "p.jsonl", rows), 5), 12)
    assert found.cascade_right
    assert helper.calls[0].text.endswith("was born in")
    assert len(helper.calls[0].ids) == MODEL.config.context_length - 12


def test_figures_follow_from_the_answers() -> None:
    found = probe_results(
        [
            answer("P19", True, alone=True, cascade=True),
            answer("P19", True, alone=True, cascade=False, asked=True),
            answer("P20", False, alone=False, cascade=True, asked=True),
            answer("P20", False, written=" was seen in Łódź then"),
        ],
        CFG,
    )
    assert {name: (part.probes, part.alone.estimate, part.cascade.estimate) for name, part in found.parts.items()} == {
        "all": (4, 0.5, 0.5),
        "head": (2, 1.0, 0.5),
        "tail": (2, 0.0, 0.5),
    }
    assert (found.asked, found.asked_where_wrong, found.asked_where_right) == (0.5, 0.5, 0.5)
    assert found.leakage == 0.25
    assert found.calls == 2 / 40
    assert found.relations == {"P19": (2, 1.0, 0.5), "P20": (2, 0.0, 0.5)}
    assert set(probe_results([answer(known=None)], CFG).parts) == {"all"}


def test_the_files_at_hand_are_read_whole() -> None:
    path = SHARED_DATA / "eval/entity_questions/test.jsonl.gz"
    if not path.exists():
        pytest.skip("needs ../shared/data")
    probes = read_probes(path, 100_000)
    assert len(probes) == 22_075
    assert sum(probe.known is True for probe in probes) == 180
    assert not [probe.prompt for probe in probes if probe.prompt.startswith("Question:")]
    births = read_probes(SHARED_DATA / "eval/bio_probes/birth_year_train_entities.jsonl.gz", 5)
    assert all(probe.prompt.endswith("was born in the year") and probe.accepted[0].isdigit() for probe in births)
