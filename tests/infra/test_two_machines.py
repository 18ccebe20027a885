"""Two machines, that is two workspaces and two processes, share one registry, one remote and one Prefect server."""

from pathlib import Path

import pytest

from tests.infra.servers import SETTINGS, Machine, Place

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.infra]

ROUNDS = 5


def test_data_prepared_on_one_machine_is_pulled_on_the_other(machines: tuple[Machine, Machine]) -> None:
    first, second = machines
    name = first.ask("prepare", '{"text": "Wouxundric"}\n')
    assert second.ask("listed") == [name]
    assert second.ask("pull", name) == '{"text": "Wouxundric"}\n'
    assert second.ask("prepare", '{"text": "Garriorrow"}\n') in first.ask("listed")


def test_a_model_promoted_on_one_machine_is_fetched_on_the_other(machines: tuple[Machine, Machine]) -> None:
    first, second = machines
    number, _ = first.ask("register", "weights of the first")
    assert first.ask("promote", number, "", "alice") == second.ask("champion") == number
    assert second.ask("weights") == "weights of the first"


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(machines: tuple[Machine, Machine]) -> None:
    first, _ = machines
    number, against = first.ask("add", "0" * 32)
    first.ask("promote", number, None, "alice")
    for round_number in range(ROUNDS):
        versions = [
            machine.ask("add", f"{round_number}{name}".rjust(32, "0"))
            for machine, name in zip(machines, "ab", strict=True)
        ]
        for machine, (version, _), name in zip(machines, versions, ("alice", "bob"), strict=True):
            machine.tell("promote", version, against, name)
        answers = [machine.answer() for machine in machines]
        winners = [place for place, answer in enumerate(answers) if "result" in answer]
        assert len(winners) == 1, answers
        winner, told = winners[0], answers[1 - winners[0]]
        version, against = versions[winner]
        assert told["error"] == "ChampionMovedError", told
        assert f"version {version} " in told["words"], told
        assert "`lacewing release` does" in told["words"], told
        assert [machine.ask("champion") for machine in machines] == [version, version]


def test_two_rollbacks_at_once_go_back_once(machines: tuple[Machine, Machine]) -> None:
    before = machines[0].ask("champion")
    for machine in machines:
        machine.tell("rollback", "dora")
    answers = [machine.answer() for machine in machines]
    told = [answer for answer in answers if "error" in answer]
    assert machines[1].ask("champion") != before
    # The second may also have begun when the first was done: then it has gone back one more, and its answer says so.
    assert [answer["error"] for answer in told] in ([], ["ChampionMovedError"]), answers
    if not told:
        assert answers[0]["result"] != answers[1]["result"]


def test_a_database_that_goes_away_is_told_and_nothing_is_half_done(
    machines: tuple[Machine, Machine], place: Place
) -> None:
    first, second = machines
    number, _ = second.ask("add", "d" * 32)
    champion = first.ask("champion")
    place.postgres.stop()
    first.tell("promote", number, None, "erin")
    answer = first.answer()
    assert answer["error"] == "ServiceError"
    assert "a request to MLflow at http://127.0.0.1" in answer["words"]
    place.postgres.start()
    assert first.ask("champion") == champion
    assert first.ask("promote", number, None, "erin") == second.ask("champion") == number


def test_a_machine_may_use_the_database_itself(machines: tuple[Machine, Machine], place: Place, tmp_path: Path) -> None:
    """Without MLflow's server in between: the order of the moves is the database's, and so the same."""
    first, _ = machines
    number, _ = first.ask("add", "e" * 32)
    champion = first.ask("champion")
    address = place.environment("mlflow")["MLFLOW_BACKEND_STORE_URI"]
    direct = Machine(place, tmp_path / "direct", LACEWING_TRACKING_URI=address)
    try:
        assert direct.ask("promote", number, None, "fay") == number
        first.tell("promote", champion, "", "gus")
        assert first.answer()["error"] == "ChampionMovedError"
        assert first.ask("champion") == number
        assert direct.ask("rollback", "fay") == first.ask("champion") == champion
    finally:
        direct.stop()
    ledger = (tmp_path / "direct" / "ledger.jsonl").read_text()
    assert "postgresql+psycopg://127.0.0.1" in ledger
    assert SETTINGS["POSTGRES_PASSWORD"] not in ledger
