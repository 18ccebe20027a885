"""A server that follows a registry: versions come, are refused, take over and go, while requests are answered."""

import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from safetensors.torch import load_file, save_file

from components.core.artifact import RECORD
from components.core.identity import digest_file
from components.core.run import Run
from components.deployment import bundle as bundle_stage
from components.deployment import following as module
from components.deployment.config import BundleStageConfig, ServeConfig
from components.deployment.following import Following
from components.deployment.loading import checked_version, loaded_version
from components.deployment.server import create_app, listen
from components.deployment.versions import Version, Versions
from components.deployment.wanted import Target, Wanted
from components.model.bundle import Bundle
from components.model.checkpoint import WEIGHTS
from tests.deployment.conftest import Delegated, Stages

PROMPT = "The history of the harbour"
SETTINGS: dict[str, Any] = {"model": "champion", "threads": 1, "client_timeout_seconds": 30}


def target(folder: Path, number: int, **more: str) -> Target:
    return Target(name=f"lacewing/{number}", digest=digest_file(folder / RECORD), folder=str(folder), **more)


@pytest.fixture(scope="module")
def second(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model under another penalty, so that it writes another text."""
    run = Run.local(tmp_path_factory.mktemp("second"), "bundle")
    return bundle_stage.stage(run, BundleStageConfig(name="tiny", presence_penalty=2.0), **stages._asdict())


class Served:
    """A server in this process, which is told what a registry wants."""

    def __init__(self, versions: Versions, following: Following, client: httpx.Client) -> None:
        self.versions, self.following, self.client = versions, following, client
        self.loads = 0

    def wants(self, served: Target, canary: Target | None = None) -> None:
        self.following.settle(Wanted(served=served, canary=canary))

    def ask(self, tokens: int = 4, request: str = "", **more: object) -> httpx.Response:
        body = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, **more}
        return self.client.post("/v1/completions", json=body, headers={"X-Request-Id": request} if request else {})

    def version(self, request: str = "") -> str:
        answer = self.ask(request=request)
        assert answer.status_code == 200, answer.text
        assert answer.json()["system_fingerprint"].startswith(answer.headers["X-Lacewing-Model"])
        return answer.headers["X-Lacewing-Model"]

    def about(self) -> dict[str, Any]:
        return dict(self.client.get("/v1/about").json())

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])


@contextmanager
def serving(folder: Path, **settings: object) -> Iterator[Served]:
    cfg = ServeConfig.model_validate({**SETTINGS, **settings})
    versions = Versions(loaded_version(cfg, folder, "lacewing/1"))

    def load(wanted: Target) -> Version:
        served.loads += 1
        return checked_version(cfg, wanted)

    following = Following(versions, load, cfg)
    with listen("127.0.0.1", 0) as listener:
        web = uvicorn.Server(uvicorn.Config(create_app(versions, cfg), log_level="error"))
        thread = threading.Thread(target=partial(web.run, [listener]), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client:
            served = Served(versions, following, client)
            yield served
        following.close()
        web.should_exit = True
        thread.join(20)


@pytest.fixture
def served(bundle: Bundle) -> Iterator[Served]:
    with serving(bundle.folder) as served:
        yield served


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def test_a_request_ends_on_the_version_it_began_with(served: Served, bundle: Bundle, second: Bundle) -> None:
    tokens = 100
    expected = served.ask(tokens).json()["choices"][0]["text"]
    old = served.versions.current
    old.engine.model.embedding.register_forward_pre_hook(lambda *_: time.sleep(0.02))  # its stream outlasts the swap
    body = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "stream": True}
    with served.client.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        streamed = [next(lines)]
        served.wants(target(second.folder, 2))
        assert served.version() == "lacewing/2", "others get the new version while the stream goes on"
        assert [part for part, _ in served.versions.loaded] == ["current", "leaving"]
        streamed += list(lines)
    chunks = [json.loads(line.removeprefix("data: ")) for line in streamed if line and "[DONE]" not in line]
    assert answer.headers["X-Lacewing-Model"] == "lacewing/1"
    assert {chunk["system_fingerprint"] for chunk in chunks} == {f"lacewing/1@{bundle.key[:16]}"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    assert served.ask(tokens).json()["choices"][0]["text"] != expected, "the versions write different texts"
    eventually(lambda: not old.engine.running)
    assert [part for part, _ in served.versions.loaded] == ["current"]
    assert served.about()["version"] == served.client.get("/health").json()["version"] == "lacewing/2"
    assert served.metric("lacewing_version_swaps_total") == 1


def test_nothing_holds_a_version_that_has_gone(served: Served, second: Bundle) -> None:
    """Connections are kept open, and each would keep what its last request has touched."""
    gone = weakref.ref(served.versions.current.engine)
    served.ask()
    served.ask(tokens=0)
    served.client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "a"}], "max_tokens": 2})
    for _ in range(2):
        body = {"prompt": PROMPT, "max_tokens": 50, "stream": True}
        with served.client.stream("POST", "/v1/completions", json=body) as answer:
            next(answer.iter_lines())
    served.wants(target(second.folder, 2))
    eventually(lambda: gone() is None)


def test_the_version_before_need_not_be_loaded_again_while_it_answers(
    served: Served, bundle: Bundle, second: Bundle
) -> None:
    before = served.versions.take()
    served.wants(target(second.folder, 2))
    served.wants(target(bundle.folder, 1))
    assert served.versions.current is before
    assert served.loads == 1
    served.versions.give_back(before)
    assert served.version() == "lacewing/1"


def test_every_answer_names_the_version_errors_too(served: Served) -> None:
    for answer in (
        served.ask(tokens=0),
        served.ask(model="another"),
        served.client.post("/v1/completions", content="{"),
        served.client.get("/v1/models"),
        served.client.get("/v1/nothing"),
    ):
        assert answer.headers["X-Lacewing-Model"] == "lacewing/1"


def altered(folder: Path) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))


def pickled_weights(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / WEIGHTS)


def a_pickle_beside(folder: Path) -> None:
    (folder / "optimizer.json").write_bytes(b"\x80\x04N.")


def a_program_beside(folder: Path) -> None:
    (folder / "modeling.py").write_text("import os")


def no_numbers(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}, folder / WEIGHTS)


def sealed(change: Callable[[Path], None], folder: Path) -> None:
    """The change, by somebody who knows how bundles are sealed."""
    change(folder)
    record = Bundle.open(folder).record
    (folder / RECORD).unlink()
    Bundle.seal(folder, record.identity, record.metrics, record.details)


BAD = {
    "altered weights": (altered, "model.safetensors was altered"),
    "another file, which the record does not name": (a_pickle_beside, "optimizer.json, which its record does not name"),
    "a pickle with an innocent name": (partial(sealed, a_pickle_beside), "optimizer.json, which is a pickle"),
    "pickled weights": (partial(sealed, pickled_weights), "model.safetensors, which is a pickle"),
    "a program": (partial(sealed, a_program_beside), "modeling.py, which is not data"),
    "weights that are no numbers": (partial(sealed, no_numbers), "no finite probability"),
}


@pytest.mark.parametrize(("change", "reason"), BAD.values(), ids=BAD)
def test_a_bad_bundle_is_refused_and_the_old_version_goes_on(
    served: Served, second: Bundle, change: Callable[[Path], None], reason: str, tmp_path: Path, caplog: Any
) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(second.folder, folder)
    change(folder)
    for _ in range(2):
        served.wants(target(folder, 2))
    assert served.loads == 1, "it is not loaded at every look"
    assert served.version() == "lacewing/1"
    assert reason in served.about()["registry"]["refused"]["lacewing/2"]
    assert (
        f"lacewing/2 is refused, lacewing/1 goes on: {served.about()['registry']['refused']['lacewing/2']}"
        in caplog.text
    )
    assert served.metric("lacewing_versions_refused_now") == served.metric("lacewing_versions_refused_total") == 1
    served.wants(target(second.folder, 3))
    assert served.version() == "lacewing/3"
    assert served.about()["registry"]["refused"] == {}


def test_a_bundle_that_is_not_the_registered_one_is_refused(served: Served, second: Bundle) -> None:
    wrong = target(second.folder, 2).model_copy(update={"digest": "0" * 64})
    served.wants(wrong)
    assert "is not the registered bundle" in served.about()["registry"]["refused"]["lacewing/2"]
    assert served.version() == "lacewing/1"


def test_a_bundle_that_cannot_be_fetched_is_taken_once_it_can(served: Served, second: Bundle) -> None:
    there = target(second.folder, 2)
    served.wants(there.model_copy(update={"folder": "", "fault": "the store is away"}))
    assert served.about()["registry"]["refused"] == {"lacewing/2": "the store is away"}
    assert served.loads == 0
    served.wants(there)
    assert served.version() == "lacewing/2"


def test_a_version_whose_helper_is_not_there_waits_for_it(
    served: Served, delegated: Delegated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.0)
    closed = {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "timeout_seconds": 0.5, "retries": 0}
    bundle = delegated.bundle(tmp_path / "asking", budget=0.5, helper=closed)
    for _ in range(2):
        served.wants(target(bundle.folder, 2))
    assert served.loads == 2, "a helper may come back"
    assert "the helper that this model asks is not there" in served.about()["registry"]["refused"]["lacewing/2"]
    assert served.metric("lacewing_versions_refused_total") == 1, "the same reason is told once"
    assert served.version() == "lacewing/1"


def test_a_registry_that_is_gone_stops_nothing(served: Served, second: Bundle, caplog: Any) -> None:
    for _ in range(2):
        served.following.settle(Wanted(fault="no route to it"))
    assert caplog.text.count("no route to it") == 1
    assert served.version() == "lacewing/1"
    assert served.about()["registry"]["fault"] == "no route to it"
    assert served.metric("lacewing_registry_reachable") == 0
    served.wants(target(second.folder, 2))
    assert served.version() == "lacewing/2"
    assert served.metric("lacewing_registry_reachable") == 1


def test_only_the_latest_state_counts(served: Served, bundle: Bundle, second: Bundle) -> None:
    """The thread is told faster than it can load."""
    for number in range(20):
        served.following.told(Wanted(served=target((second if number % 2 else bundle).folder, 1 + number % 2)))
    eventually(lambda: served.versions.current.name == "lacewing/2")
    assert served.loads < 20


@pytest.fixture
def tried(bundle: Bundle, second: Bundle) -> Iterator[Served]:
    """A server with a version on trial."""
    with serving(bundle.folder, canary=0.5, canary_requests=8) as served:
        served.wants(target(bundle.folder, 1), canary=target(second.folder, 2))
        yield served


def test_the_same_request_id_gets_the_same_version(tried: Served) -> None:
    names = [str(number) for number in range(40)]
    answered = {name: tried.version(name) for name in names}
    assert {tried.version(name) == answered[name] for name in names[:10]} == {True}
    assert 10 <= list(answered.values()).count("lacewing/2") <= 30
    assert tried.client.get("/v1/models").headers["X-Lacewing-Model"] == "lacewing/1"
    assert tried.about()["canary"] == "lacewing/2"


def test_a_version_on_trial_that_becomes_champion_is_not_loaded_again(
    tried: Served, second: Bundle, bundle: Bundle
) -> None:
    tried.wants(target(second.folder, 2), canary=target(second.folder, 2))
    assert tried.loads == 1
    assert {tried.version() for _ in range(8)} == {"lacewing/2"}
    assert tried.about()["canary"] == ""


def test_a_trial_ends_with_the_alias(tried: Served, bundle: Bundle) -> None:
    tried.wants(target(bundle.folder, 1))
    assert {tried.version() for _ in range(8)} == {"lacewing/1"}
    eventually(lambda: len(tried.versions.loaded) == 1)


def test_errors_abort_a_trial(tried: Served, bundle: Bundle, second: Bundle, caplog: Any) -> None:
    trial = tried.versions.trial
    assert trial is not None
    trial.version.engine.end_requests()  # as after an error that it does not survive
    statuses = [tried.ask().status_code for _ in range(40)]
    assert 1 <= statuses.count(503) <= 2, "it does not go on until many have seen it"
    assert statuses[-8:] == [200] * 8
    assert "the trial of lacewing/2 is ended" in caplog.text
    assert tried.metric('lacewing_canary_aborts_total{reason="errors"}') == 1
    tried.wants(target(bundle.folder, 1), canary=target(second.folder, 2))
    assert tried.loads == 1, "it stays aborted"
    assert tried.about()["registry"]["aborted"].keys() == {"lacewing/2"}
    assert {tried.version() for _ in range(8)} == {"lacewing/1"}


def test_a_long_wait_aborts_a_trial(tried: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = tried.versions.trial
    assert trial is not None
    steps = trial.version.engine._steps  # type: ignore[attr-defined]

    def slow() -> object:
        time.sleep(0.05)
        return steps()

    monkeypatch.setattr(trial.version.engine, "_steps", slow)
    asked = 0
    while tried.versions.trial is not None:
        tried.ask(tokens=6)
        asked += 1
        assert asked < 60
    assert asked >= 16, "both must have answered before they are compared"
    assert tried.metric('lacewing_canary_aborts_total{reason="latency"}') == 1
    assert "(p95)" in tried.about()["registry"]["aborted"]["lacewing/2"]
