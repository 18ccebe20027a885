from benchmarks.study import FULL, METHODS, SHORT, SHORT_METHODS, Study, table
from components.evaluation.factuality.study import COLUMNS

NAN = float("nan")


def study(estimate: float, half: float) -> Study:
    interval = {"estimate": estimate, "low": estimate - half, "high": estimate + half}
    return {name: dict.fromkeys(COLUMNS, interval) for name in ("ntp", "lacy")}


def test_the_tables_show_columns_that_a_study_has() -> None:
    assert {*SHORT.values(), *FULL.values()} <= set(COLUMNS)
    assert set(SHORT_METHODS) <= set(METHODS)


def test_shares_are_percentages_and_methods_that_were_not_compared_have_no_row() -> None:
    rows = table(study(0.4567, 0.0123), FULL, tuple(METHODS)).splitlines()
    assert len(rows) == 4
    cells = [cell.strip() for cell in rows[3].strip("|").split("|")]
    assert cells[0] == METHODS["lacy"]
    assert cells[1:4] == ["45.7 ± 1.2", "45.7 ± 1.2", "46 ± 1"]
    assert cells[-1] == "0.457 ± 0.012"


def test_a_single_seed_has_no_interval_and_an_unmeasured_value_a_dash() -> None:
    assert "| 45.7 | 45.7 |" in table(study(0.4567, NAN), SHORT, ("ntp",), tight=True)
    assert "| – | – |" in table(study(NAN, NAN), SHORT, ("ntp",))
