"""What an answer cost: energy by shares of the batch, and the price of its calls; never a made-up figure."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from components.deployment import energy
from components.deployment.config import ServeConfig
from components.deployment.energy import EnergyShares
from components.deployment.engine import Engine
from components.deployment.server import create_app
from components.deployment.versions import Version, Versions
from components.evaluation.cost import Meter
from components.model.bundle import Bundle
from tests.deployment.conftest import Fact
from tests.evaluation.test_cost import counter


@pytest.fixture
def processor(tmp_path: Path) -> Callable[[int], object]:
    """Lets one processor's counter stand at so many joules."""
    return lambda joules: counter(tmp_path, "intel-rapl:0", joules * 1_000_000, limit=1_000_000_000)


def test_what_was_used_meanwhile_is_shared_by_those_who_were_there(
    tmp_path: Path, processor: Callable[[int], object]
) -> None:
    shares = EnergyShares(meter=partial(Meter, tmp_path))
    processor(100)
    one = shares.enter()
    processor(110)
    two = shares.enter()
    processor(130)
    assert shares.leave(one) == pytest.approx(10 + 20 / 2)
    processor(135)
    assert shares.leave(two) == pytest.approx(20 / 2 + 5)
    processor(200)  # nobody's
    third = shares.enter()
    assert shares.leave(third) == 0.0


def test_where_nobody_counts_nothing_is_known_and_later_answers_are_counted_again(
    tmp_path: Path, processor: Callable[[int], object]
) -> None:
    shares = EnergyShares(meter=partial(Meter, tmp_path))
    early = shares.enter()
    processor(5)
    late = shares.enter()
    processor(7)
    assert shares.leave(early) is None
    assert shares.leave(late) == pytest.approx(1.0)


def test_an_estimate_is_time_by_watts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(energy.time, "monotonic", lambda: now[0])
    shares = EnergyShares(watts=50.0)
    one = shares.enter()
    now[0] += 2
    two = shares.enter()
    now[0] += 4
    assert shares.leave(two) == pytest.approx(100.0)
    assert shares.leave(one) == pytest.approx(200.0)
    assert shares.estimated


@contextmanager
def served(bundle: Bundle, **settings: object) -> Iterator[TestClient]:
    cfg = ServeConfig.model_validate({"model": "asking", **settings})
    with (
        Engine(bundle.folder, threads=1) as engine,
        TestClient(create_app(Versions(Version(engine)), cfg), base_url="http://127.0.0.1") as client,
    ):
        yield client


def test_usage_has_the_price_of_the_calls_and_the_energy(asking: Bundle, fact: Fact) -> None:
    body = {"prompt": [fact.prompt, "The town of"], "max_tokens": 8, "temperature": 0, "call_budget": 1.0}
    with served(asking, price_per_call=0.25, watts=100) as client:
        usage = client.post("/v1/completions", json=body).json()["usage"]
        assert usage["price"] == 0.25 * usage["completion_tokens_details"]["calls"] > 0
        assert 0 < usage["estimated_joules"] < 100 * 60
        assert "joules" not in usage
        free = client.post("/v1/completions", json={**body, "call_budget": 0}).json()["usage"]
        assert free["price"] == 0.0
        streamed = client.post(
            "/v1/completions", json={**body, "stream": True, "stream_options": {"include_usage": True}}
        ).text
        assert '"price":' in streamed
        assert '"estimated_joules":' in streamed


def test_without_a_price_and_a_counter_usage_is_as_it_was(
    asking: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, processor: Callable[[int], object]
) -> None:
    places = {"none": tmp_path / "nothing", "some": tmp_path}
    for place, names in (("none", set()), ("some", {"joules"})):
        processor(1)
        monkeypatch.setattr(EnergyShares.__init__, "__defaults__", (None, partial(Meter, places[place])))
        with served(asking) as client:
            usage = client.post("/v1/completions", json={"prompt": "The", "max_tokens": 2}).json()["usage"]
        assert set(usage) - names == {
            "prompt_tokens",
            "completion_tokens",
            "total_tokens",
            "completion_tokens_details",
        }
        assert names <= set(usage)
