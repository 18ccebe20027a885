"""The smoke stage talks to the real server process, and says what the server said when it fails."""

import json
import shutil
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from components.core.errors import InputError, ServiceError
from components.core.run import Run
from components.deployment import smoke
from components.deployment.config import SmokeConfig


def test_the_answer_of_the_real_server_is_kept(
    bundle: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LACEWING_API_KEY", "meant for another server")
    cfg = SmokeConfig(prompt="Ada Quill designed", max_tokens=8, threads=1)
    sealed = smoke.stage(Run.local(tmp_path / "smoke"), cfg, bundle)
    answer = json.loads(sealed.path("answer.json").read_text())
    assert sealed.details == {"prompt": cfg.prompt, "answer": answer["answer"], "model": "tiny"}
    assert answer["usage"]["completion_tokens"] == sealed.metrics["completion_tokens"] == 8
    assert "serving tiny on http://127.0.0.1:" in sealed.path("server.log").read_text()


def test_a_server_that_does_not_start_is_reported_with_its_log(bundle: Artifact, tmp_path: Path) -> None:
    shutil.copytree(bundle.folder, tmp_path / "bundle")
    (tmp_path / "bundle" / "model.safetensors").write_bytes(b"not weights")
    damaged = Artifact.open(tmp_path / "bundle")
    with pytest.raises(ServiceError, match=r"(?s)exit code 4.*server log:.*model\.safetensors has 11 bytes"):
        smoke.stage(Run.local(tmp_path / "smoke"), SmokeConfig(prompt="Ada", threads=1), damaged)


def test_a_prompt_that_the_server_refuses_is_reported(bundle: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"HTTP 400.*shorten the prompt"):
        smoke.stage(Run.local(tmp_path / "smoke"), SmokeConfig(prompt="word " * 20_000, threads=1), bundle)


def test_a_server_that_takes_too_long_is_reported(bundle: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"not ready within 0\.05 seconds"):
        smoke.stage(Run.local(tmp_path / "smoke"), SmokeConfig(prompt="Ada", timeout_seconds=0.05, threads=1), bundle)


def test_without_a_prompt_it_asks_what_the_model_answered_right(bundle: Artifact, tmp_path: Path) -> None:
    assessed = Run.local(tmp_path / "assess")
    answers = [{"prompt": "Wrong", "correct": False}, {"prompt": "Ada Quill", "correct": True}]
    (assessed.folder / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
    cfg = SmokeConfig(max_tokens=2, threads=1)
    sealed = smoke.stage(Run.local(tmp_path / "smoke"), cfg, bundle, assessed.seal(metrics={}))
    assert sealed.details["prompt"] == "Ada Quill"


def test_with_nothing_to_ask_it_says_which_setting_gives_a_question(bundle: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"release\.smoke\.prompt"):
        smoke.stage(Run.local(tmp_path / "smoke"), SmokeConfig(threads=1), bundle)
