"""Keys: whose they are, how they are told apart, and what their limits let through."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from components.core.errors import InputError
from components.deployment.config import ServeConfig
from components.deployment.engine import Engine
from components.deployment.keys import Bucket, Client, Clients, KeyRecord, read_keys
from components.deployment.server import create_app
from components.deployment.versions import Version, Versions
from components.model.bundle import Bundle

LIMITED, FREE = "k-limited", "k-free"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_bucket_fills_evenly_and_owes_what_was_taken_beyond_it() -> None:
    clock = Clock()
    bucket = Bucket(60, clock)
    bucket.take(60)
    assert bucket.seconds_until(1) == pytest.approx(1)
    clock.seconds = 1
    assert bucket.seconds_until(1) == 0
    bucket.take(61)
    assert bucket.seconds_until(1) == pytest.approx(61)
    clock.seconds = 1000
    assert bucket.seconds_until(60) == 0
    assert bucket.seconds_until(61) > 0, "never more than a minute's worth"
    assert Bucket(None, clock).seconds_until(1e9) == 0


def test_requests_and_tokens_are_limited_for_each_key_by_itself() -> None:
    clock = Clock()
    record = KeyRecord(name="a", sha256=digest("a"), requests_per_minute=2, tokens_per_minute=100)
    one, other = Client(record, clock), Client(record, clock)
    assert one.admit() is None
    one.charge(150)
    assert one.admit() == ("tokens_per_minute", pytest.approx(0.6 * 51))
    assert other.admit() is None
    assert other.admit() is None
    assert other.admit() == ("requests_per_minute", pytest.approx(30))
    clock.seconds = 31
    assert one.admit() is None
    assert other.admit() is None


@pytest.mark.parametrize("header", [b"", b"Bearer", b"Bearer ", b"Bearer wrong", b"Basic a", b"a", b"Bearer a "])
def test_only_the_whole_key_with_its_scheme_is_known(header: bytes) -> None:
    clients = Clients([Client(KeyRecord(name="a", sha256=digest("a")))])
    assert clients.holder(header) is None
    known = clients.holder(b"Bearer a")
    assert known is not None
    assert known.name == "a"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"cannot be read \(No such file"),
        ("{", "is no file of keys"),
        ('{"keys": []}', "is no file of keys"),
        ('{"keys": [{"name": "a", "sha256": "abc"}]}', "is no file of keys .*sha256"),
        ({"keys": [{"name": "a", "key": "secret"}]}, "is no file of keys"),
        ({"keys": [{"name": "a", "sha256": "0" * 64}, {"name": "a", "sha256": "1" * 64}]}, "the name a occurs twice"),
        (
            {"keys": [{"name": "a", "sha256": "0" * 64}, {"name": "b", "sha256": "0" * 64}]},
            "the sha256 0+ occurs twice",
        ),
        ({"keys": [{"name": "a b", "sha256": "0" * 64}]}, "is no file of keys .*name"),
        ({"keys": [{"name": "a", "sha256": "0" * 64, "tokens_per_minute": 0}]}, "tokens_per_minute"),
    ],
)
def test_a_file_that_is_none_of_keys_is_refused_with_how_one_looks(content: object, words: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=words) as error:
        read_keys(path)
    assert "secret" not in str(error.value)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    limited = {"name": "limited", "sha256": digest(LIMITED), "requests_per_minute": 100, "tokens_per_minute": 10}
    path.write_text(json.dumps({"keys": [limited, {"name": "free", "sha256": digest(FREE)}]}))
    return path


@pytest.fixture
def serving(bundle: Bundle) -> Callable[..., "Iterator[TestClient]"]:
    @contextmanager
    def served(keys: Path, environment_key: str = "") -> Iterator[TestClient]:
        engine = Engine(bundle.folder, threads=1)
        with TestClient(
            create_app(Versions(Version(engine)), ServeConfig(model="tiny"), Clients.of(str(keys), environment_key)),
            "http://localhost",
        ) as client:
            yield client

    return served  # type: ignore[return-value]


def test_an_answer_counts_for_its_key_and_the_next_waits(keys: Path, serving: Callable[..., TestClient]) -> None:
    body = {"prompt": "The", "max_tokens": 12, "temperature": 0}
    with serving(keys, "k-env") as client:  # type: ignore[attr-defined]
        assert client.post("/v1/completions", json=body).status_code == 401
        limited = {"Authorization": f"Bearer {LIMITED}"}
        used = client.post("/v1/completions", json=body, headers=limited).json()["usage"]["total_tokens"]
        assert used > 10
        refused = client.post("/v1/completions", json=body, headers=limited)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert "the key of 'limited' has reached its tokens_per_minute" in refused.json()["error"]["message"]
        assert 0 < int(refused.headers["retry-after"]) <= 60
        for key in (FREE, "k-env"):
            for _ in range(3):
                assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        metrics = client.get("/metrics").text
        assert f'lacewing_client_tokens_total{{client="limited"}} {float(used)}' in metrics
        assert LIMITED not in metrics


def test_a_stream_counts_too_also_one_that_is_left(keys: Path, serving: Callable[..., TestClient]) -> None:
    limited = {"Authorization": f"Bearer {LIMITED}"}
    body = {"prompt": "The", "max_tokens": 12, "temperature": 0, "stream": True}
    with serving(keys) as client:  # type: ignore[attr-defined]
        with client.stream("POST", "/v1/completions", json=body, headers=limited) as answer:
            for _ in answer.iter_lines():
                pass
        assert client.post("/v1/completions", json=body, headers=limited).status_code == 429
