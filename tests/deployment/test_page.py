"""The page's files, their headers, and what ``/v1/about`` says; ``test_page_in_browser`` has what people see."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from components.core.errors import ArtifactError
from components.core.run import Run
from components.deployment import page
from components.deployment.page.origin import Origin
from components.deployment.server import main
from components.deployment.showcase import prompts_to_try
from components.evaluation.artifacts import Scores
from components.evaluation.results import Answer, Sample
from components.model.bundle import Bundle
from tests.deployment.conftest import Delegated
from tests.deployment.process import started, url_of

FOLDER = Path(page.__file__).parent
FILES = ["page/icon.svg", "page/page.css", "page/page.js", "page/api.js", "page/answer.js"]
MLFLOW = "https://mlflow.example/#/models/lacewing/versions/3"


@pytest.fixture(scope="module")
def locked(asking: Bundle) -> Iterator[httpx.Client]:
    """Client of a server that asks for a key and knows where its model comes from."""
    options = [
        "--port",
        "0",
        "--model-version",
        "lacewing version 3",
        "--model-page",
        MLFLOW,
        "--price-per-call",
        "0.002",
    ]
    with (
        started(asking.folder, *options, LACEWING_API_KEY="s3cret") as process,
        httpx.Client(base_url=url_of(process), timeout=60.0, trust_env=False) as client,
    ):
        yield client


@pytest.mark.parametrize("path", ["", *FILES])
def test_files_need_no_key_and_forbid_everything_from_elsewhere(locked: httpx.Client, path: str) -> None:
    answer = locked.get(f"/{path}")
    assert answer.status_code == 200
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[kind] for kind in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert (policy["frame-ancestors"], policy["require-trusted-types-for"]) == ("'none'", "'script'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    kind = {"": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}[Path(path).suffix]
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"


def test_only_the_pages_own_files_are_there(locked: httpx.Client) -> None:
    assert sorted(FILES) == sorted(f"page/{path.name}" for path in FOLDER.glob("*.[cjs][svs]*"))
    for name in ("routes.py", "__init__.py", "..%2fserver.py", "%2e%2e/server.py", "nothing.js"):
        assert locked.get(f"/page/{name}").status_code == 404
    assert locked.post("/").status_code == 405


def test_the_page_is_for_the_servers_own_names_only(locked: httpx.Client) -> None:
    for path in ("/", "/page/page.js"):
        assert locked.get(path, headers={"Host": "evil.example"}).status_code == 403


def test_nothing_is_written_that_the_policy_would_forbid() -> None:
    """No address of another host, nothing inline, and no way from a text to markup."""
    for path in FOLDER.glob("*.*"):
        if path.suffix == ".py":
            continue
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", text), path
    html = (FOLDER / "index.html").read_text()
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", html)
    assert sum(len(path.read_text().splitlines()) for path in FOLDER.glob("*.js")) < 400


def test_about_needs_the_key_and_says_where_the_model_comes_from(locked: httpx.Client, asking: Bundle) -> None:
    assert locked.get("/v1/about").status_code == 401
    about = locked.get("/v1/about", headers={"Authorization": "Bearer s3cret"}).json()
    manifest = json.loads((asking.folder / Bundle.MANIFEST).read_text())
    assert about["version"] == "lacewing version 3"
    assert about["address"] == MLFLOW
    assert about["bundle"] == asking.key
    assert about["data"] == manifest["data"]["key"]
    assert about["sources"] == ["world"]
    assert (about["helper"], about["call_budget"], about["call_score"]) == ("fact table", 0.5, "call")
    assert about["price_per_call"] == 0.002


def test_a_plain_model_has_no_helper_and_no_registry(client: httpx.Client) -> None:
    about = client.get("/v1/about").json()
    assert about["helper"] is None
    assert about["call_budget"] == 0.0
    assert about["prompts"] == []
    assert (about["version"], about["address"], about["price_per_call"]) == ("", "", 0.0)
    assert about["sources"] == ["sentences"]


def test_a_link_that_holds_a_script_is_refused(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(bundle.folder), "--model-page", "javascript:alert(1)"])
    assert "is no address that begins with http:// or https://" in capsys.readouterr().err


def assessed(folder: Path, questions: int, texts: int) -> Scores:
    """An assessment with so many questions and held-out texts."""
    run = Run.local(folder, "assess")
    answers = [
        Answer(id=str(at), question="?", prompt=f"Question {at}", expected="a", written="b", correct=False, stated=1)
        for at in range(questions)
    ]
    samples = [Sample(prompt=f"Text {at}", continuation="a", original="b") for at in range(texts)]
    (run.folder / Scores.ANSWERS).write_text("".join(f"{answer.model_dump_json()}\n" for answer in answers))
    (run.folder / Scores.SAMPLES).write_text("".join(f"{sample.model_dump_json()}\n" for sample in samples))
    return run.seal({"bits_per_byte": 3.0}, view=Scores)


def test_prompts_are_spread_over_questions_and_texts(tmp_path: Path) -> None:
    found = prompts_to_try(assessed(tmp_path / "many", 10, 7))
    assert found == ["Question 0", "Question 3", "Question 6", "Text 0", "Text 2", "Text 4"]
    assert prompts_to_try(assessed(tmp_path / "few", 1, 2)) == ["Question 0", "Text 0", "Text 1"]


def test_a_bundle_that_asks_holds_prompts_and_they_are_read_with_it(delegated: Delegated, tmp_path: Path) -> None:
    made = delegated._replace(assessment=assessed(tmp_path / "assess", 3, 1)).bundle(tmp_path / "bundle")
    assert Origin.of(made.folder).prompts == ("Question 0", "Question 1", "Question 2", "Text 0")
    assert Bundle.PROMPTS in json.loads((made.folder / Bundle.MANIFEST).read_text())["files"]
    (made.folder / Bundle.PROMPTS).write_text("[")
    with pytest.raises(ArtifactError, match="is damaged"):
        Origin.of(made.folder)
