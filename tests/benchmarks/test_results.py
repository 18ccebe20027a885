import re
from pathlib import Path

import pytest

from benchmarks.results import PAGE, Result, describe_cpu, given_command, markdown_table, replace_section
from tests.conftest import ROOT

PAGE_TEXT = """before
<!-- begin speed -->
old
<!-- end speed -->
between
<!-- begin size -->
kept
<!-- end size -->
"""
XEON = """processor	: 0
model name	: Intel(R) Xeon(R) Gold 6430 CPU
flags		: fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile

processor	: 1
"""


def test_a_recorded_section_replaces_its_old_content_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(PAGE_TEXT)
    replace_section(page, "speed", "new\n")
    assert page.read_text() == PAGE_TEXT.replace("old", "new")
    replace_section(page, "speed", "newer")
    assert page.read_text() == PAGE_TEXT.replace("old", "newer")


@pytest.mark.parametrize("broken", ["", "<!-- begin speed -->\n"])
def test_a_page_without_both_markers_is_refused_and_left_alone(tmp_path: Path, broken: str) -> None:
    page = tmp_path / "results.md"
    page.write_text(broken)
    with pytest.raises(SystemExit, match="no section 'speed'"):
        replace_section(page, "speed", "new")
    assert page.read_text() == broken


def test_each_measurement_names_its_cpu() -> None:
    table = markdown_table([Result("a | b", "2 x", ">= 1 x"), Result("c", "3 s")], "Xeon, AMX, 2 cores")
    assert table.splitlines()[2:] == [
        r"| a \| b | 2 x | >= 1 x |  | Xeon, AMX, 2 cores |",
        "| c | 3 s |  |  | Xeon, AMX, 2 cores |",
    ]


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ("nothing", "Intel Xeon Gold 6430, AMX, 2 cores"),
        ("amx_bf16", "Intel Xeon Gold 6430, AVX512-BF16, 2 cores"),
        ("avx512f avx512_bf16 amx_bf16", "Intel Xeon Gold 6430, AVX2, 2 cores"),
        ("avx2 avx512f avx512_bf16 amx_bf16", "Intel Xeon Gold 6430, 2 cores"),
    ],
)
def test_a_cpu_is_described_by_its_best_matrix_instructions(without: str, expected: str) -> None:
    assert describe_cpu(XEON.replace(without, ""), 2) == expected


def test_the_recorded_command_can_be_run_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ROOT.parent / "shared" / "data"
    monkeypatch.setattr("sys.argv", ["prepare.py", "--record", str(data), "--vocab-size", "512"])
    assert given_command("benchmarks.prepare") == "python -m benchmarks.prepare ../shared/data --vocab-size 512"
    monkeypatch.setattr("sys.argv", ["training.py", "--threads", "1", "resume", "trainer", "--record"])
    command = given_command("benchmarks.training", "trainer", ("resume", "trainer"))
    assert command == "python -m benchmarks.training trainer --threads 1"


def test_the_page_has_a_section_for_every_benchmark_that_records() -> None:
    """A missing one would be noticed only after the benchmark has run."""
    sources = {path.stem: path.read_text() for path in (ROOT / "benchmarks").glob("*.py")}
    recorded = {name for source in sources.values() for name in re.findall(r'\brecord\("([^"]+)"', source)}
    parts = re.findall(r"^def (\w+)\(config: ModelConfig, threads: int", sources["training"], re.MULTILINE)
    sections = set(re.findall(r"<!-- begin (.+) -->", PAGE.read_text()))
    assert len(recorded) >= 7
    assert len(parts) == 6
    assert {*recorded, *(f"training {part}" for part in parts)} <= sections
