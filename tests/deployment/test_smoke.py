"""The smoke stage talks to the real server process, and says what the server said when it fails."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from components.core.errors import InputError, ServiceError
from components.core.run import Run
from components.deployment import smoke
from components.deployment.artifact import SmokeAnswer
from components.deployment.config import SmokeConfig
from components.deployment.showcase import NOT_CHECKED, truth
from components.evaluation.artifacts import Scores
from components.model.bundle import Bundle
from components.model.checkpoint import WEIGHTS
from tests.deployment.conftest import Delegated, Fact


def test_the_answer_of_the_real_server_is_kept(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACEWING_API_KEY", "meant for another server")
    cfg = SmokeConfig(prompt="Ada Quill designed", max_tokens=8, threads=1)
    sealed = smoke.stage(Run.local(tmp_path / "smoke"), cfg, bundle=bundle)
    answer = json.loads(sealed.path(SmokeAnswer.ANSWER).read_text())
    assert sealed.details == {"prompt": cfg.prompt, "answer": answer["answer"], "model": "tiny", "calls": 0}
    assert answer["usage"]["completion_tokens"] == sealed.metrics["completion_tokens"] == 8
    assert "serving tiny on http://127.0.0.1:" in sealed.path(SmokeAnswer.SERVER_LOG).read_text()


def test_a_cascade_answers_with_its_helper_and_says_how_often_it_asked(
    asking: Bundle, fact: Fact, tmp_path: Path
) -> None:
    cfg = SmokeConfig(prompt=fact.prompt, max_tokens=8, threads=1)
    sealed = smoke.stage(Run.local(tmp_path / "smoke"), cfg, bundle=asking)
    assert sealed.details["answer"].startswith(fact.value)
    usage = json.loads(sealed.path(SmokeAnswer.ANSWER).read_text())["usage"]
    assert sealed.details["calls"] == sealed.metrics["calls"] == usage["completion_tokens_details"]["calls"] > 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"small_tokens": 5}, "not those of the answer"),
        ({"calls": 9}, "called more often"),
        ({"failed_calls": 2}, "every call to its helper failed"),
    ],
)
def test_numbers_of_a_cascade_that_cannot_be_are_a_fault(wrong: dict[str, int], words: str) -> None:
    details = {"small_tokens": 6, "helper_tokens": 2, "decisions": 7, "calls": 2, "failed_calls": 1}
    assert smoke._usage_fault({"completion_tokens": 8, "completion_tokens_details": details}) is None
    fault = smoke._usage_fault({"completion_tokens": 8, "completion_tokens_details": {**details, **wrong}})
    assert fault is not None
    assert words in fault


def test_a_server_that_does_not_start_is_reported_with_its_log(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.folder, tmp_path / "bundle")
    (tmp_path / "bundle" / WEIGHTS).write_bytes(b"not weights")
    damaged = Bundle.open(tmp_path / "bundle")
    with pytest.raises(ServiceError, match=r"(?s)exit code 4.*server log:.*model\.safetensors has 11 bytes"):
        smoke.stage(Run.local(tmp_path / "smoke"), SmokeConfig(prompt="Ada", threads=1), bundle=damaged)


def test_a_prompt_that_the_server_refuses_is_reported(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"HTTP 400.*shorten the prompt"):
        smoke.stage(Run.local(tmp_path / "smoke"), SmokeConfig(prompt="word " * 20_000, threads=1), bundle=bundle)


def test_a_server_that_takes_too_long_is_reported(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"not ready within 0\.05 seconds"):
        smoke.stage(
            Run.local(tmp_path / "smoke"), SmokeConfig(prompt="Ada", timeout_seconds=0.05, threads=1), bundle=bundle
        )


def test_without_a_prompt_it_asks_what_the_model_answered_right(bundle: Bundle, tmp_path: Path) -> None:
    assessed = Run.local(tmp_path / "assess")
    asked = {"id": "q", "question": "Who?", "expected": "x", "written": "y", "stated": 1}
    answers = [{**asked, "prompt": "Wrong", "correct": False}, {**asked, "prompt": "Ada Quill", "correct": True}]
    (assessed.folder / Scores.ANSWERS).write_text("\n".join(map(json.dumps, answers)))
    (assessed.folder / Scores.SAMPLES).write_text("")
    cfg = SmokeConfig(max_tokens=2, threads=1)
    sealed = smoke.stage(Run.local(tmp_path / "smoke"), cfg, bundle=bundle, assessment=assessed.seal({}, view=Scores))
    assert sealed.details["prompt"] == "Ada Quill"


def assessed(folder: Path, prompts: list[str]) -> Scores:
    """An assessment with one wrong answer to each of ``prompts``."""
    run = Run.local(folder, "assess")
    asked = {"id": "q", "question": "Who?", "expected": "x", "written": "y", "correct": False, "stated": 1}
    (run.folder / Scores.ANSWERS).write_text("\n".join(json.dumps({**asked, "prompt": prompt}) for prompt in prompts))
    (run.folder / Scores.SAMPLES).write_text("")
    return run.seal({}, view=Scores)


def test_a_cascade_is_asked_where_its_helper_has_to_answer_and_people_see_who_wrote_what(
    asking: Bundle, delegated: Delegated, fact: Fact, tmp_path: Path
) -> None:
    """The fact table has nothing to add to the first nine prompts, whatever the model asks it."""
    unknown = [f"zz{number} zz zz zz" for number in range(9)]
    assessment = assessed(tmp_path / "assess", [*unknown, fact.prompt, f"{fact.prompt} "])
    cfg = SmokeConfig(max_tokens=8, threads=1)
    sealed = smoke.stage(
        Run.local(tmp_path / "smoke"), cfg, bundle=asking, prepared=delegated.prepared, assessment=assessment
    )
    rows = dict(sealed.record.rows)
    assert rows["asked the served model"] == sealed.prompt == fact.prompt
    assert rows["it answered"].startswith(f"‹{fact.value.strip()}›")
    assert rows["in ‹›"].startswith("words of its helper (fact table): ")
    assert rows["is it true"] == truth(fact.prompt, sealed.answer, False, delegated.prepared.fact_table) != NOT_CHECKED
    authors = json.loads(sealed.path(SmokeAnswer.ANSWER).read_text())["authors"]
    assert "".join(span["text"] for span in authors) == sealed.answer
    assert authors[0]["author"] == "helper"


def test_where_no_prompt_makes_it_ask_that_is_said(asking: Bundle, tmp_path: Path) -> None:
    assessment = assessed(tmp_path / "assess", ["zz zz zz", "zz zz yy"])
    sealed = smoke.stage(
        Run.local(tmp_path / "smoke"), SmokeConfig(max_tokens=2, threads=1), bundle=asking, assessment=assessment
    )
    rows = dict(sealed.record.rows)
    assert rows["asked the served model"] == "zz zz zz"
    assert rows["its helper"] == "wrote nothing: none of 2 prompts made the model ask and get an answer"
    assert rows["is it true"].startswith("not checked")


def test_with_nothing_to_ask_it_says_which_setting_gives_a_question(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"release\.smoke\.prompt"):
        smoke.stage(Run.local(tmp_path / "smoke"), SmokeConfig(threads=1), bundle=bundle)


ASKS = """
import sys, time
from pathlib import Path
from components.deployment.smoke import server
with server(Path(sys.argv[1]), Path(sys.argv[2]), 120, ["--name", "tiny", "--threads", "1"]) as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_a_killed_smoke_test_takes_its_server_with_it(bundle: Bundle, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASKS, str(bundle.folder), str(tmp_path / "server.log")]
    stage = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert stage.stdout is not None
        assert stage.stdout.readline().startswith("http://127.0.0.1:")
        below = psutil.Process(stage.pid).children(recursive=True)
        assert len(below) == 1
        stage.kill()
        _, alive = psutil.wait_procs(below, timeout=30)
        assert alive == []
    finally:
        stage.kill()
        stage.communicate()
