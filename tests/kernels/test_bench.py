"""The lane that measures on a GPU, rehearsed without one, so that it still runs when there is a GPU again."""

import ast
import csv
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from kernels.bench.__main__ import KERNELS, main
from kernels.bench.attention import Shape, boundaries
from kernels.bench.charts import write_bars, write_lines
from kernels.bench.goals import GOALS, Bound
from kernels.bench.gpt import GPT, GPT_1B, GPT_124M, TINY, our_parts
from kernels.bench.record import Record, Row
from kernels.bench.report import summary
from kernels.bench.timing import Failed, Program, Spread, Stopwatch

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "kernels.md"
CPU = torch.device("cpu")
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for kernel in KERNELS:
            choices = ["--write-choices", str(folder / "choices.json")] if kernel == "attention" else []
            if kernel == "end_to_end":
                patch.setenv("TRITON_INTERPRET", "0")  # the kernels had their turn, and the interpreter is slow
            assert main(["--rehearse", "--only", kernel, "--out", str(folder), *choices]) == 0
            (folder / "goals.md").rename(folder / f"{kernel}.md")
    torch.set_num_threads(threads)
    return folder


@NO_CUDA
def test_without_a_gpu_it_says_so_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "there is none here" in said
    assert "--rehearse" in said


def test_a_rehearsal_gives_every_goal_a_row_and_no_verdict(rehearsed: Path) -> None:
    expected = {"cross_entropy": {"C1 narrow", "C7", "C8 loss"}, "attention": {"A1", "A2", "A8"}}
    expected["end_to_end"] = {"E1", "E2", "E3 speed", "E4"}
    for kernel in KERNELS:
        rows = [
            line.split(" | ") for line in (rehearsed / f"{kernel}.md").read_text().splitlines() if line[:3] != "| -"
        ]
        rows = [row for row in rows if row[0].removeprefix("| ") in GOALS]
        assert {row[0].removeprefix("| ") for row in rows} == set(GOALS)
        assert all("rehearsal, no goal" in row[-1] for row in rows)
        measured = {row[0].removeprefix("| ") for row in rows if row[4].strip()}
        assert expected[kernel] <= measured


def test_the_csv_file_says_where_each_figure_comes_from(rehearsed: Path) -> None:
    with (rehearsed / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["kernel"] for line in lines} == set(KERNELS)  # three runs, appended
    for line in lines:
        assert float(line["p20"]) <= float(line["value"]) <= float(line["p80"])
        assert json.loads(line["config"])
        assert line["rehearsal"] == "1"
        assert line["torch"] == str(torch.__version__)


def test_the_choices_have_the_form_that_dispatch_reads(rehearsed: Path) -> None:
    choices = json.loads((rehearsed / "choices.json").read_text())
    assert set(choices["measured"]) == {"gpu", "date", "torch", "triton"}
    (capability,) = set(choices) - {"measured", "how_measured"}
    assert choices[capability]["float32"]["16"]["plain"]["32"] in {"triton", "torch", "sdpa_flash", "sdpa_cudnn"}
    assert choices[capability]["float32"]["16"]["documents"]["32"] in {"triton", "torch", "sdpa"}


def test_charts_are_pictures(rehearsed: Path) -> None:
    for name in ("attention-forward.svg", "attention-full.svg", "attention-documents.svg", "cross-entropy.svg"):
        assert ElementTree.parse(rehearsed / name).getroot().tag.endswith("svg")


def test_a_wrong_kernel_ends_the_run_before_anything_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kernels.bench import attention as bench

    right = bench.attention
    monkeypatch.setattr(bench, "attention", lambda *given, **options: 1.01 * right(*given, **options))
    monkeypatch.setenv("TRITON_INTERPRET", "0")  # PyTorch's implementation is wrong as well as any
    assert main(["--rehearse", "--only", "attention", "--out", str(tmp_path)]) == 1
    assert "WRONG NUMBERS" in capsys.readouterr().out
    assert not (tmp_path / "results.csv").exists()


def test_verdicts() -> None:
    goal = GOALS["A3 flash"]
    assert Row(goal, "", value=1.1).verdict == "pass"
    assert Row(goal, "", value=1.3).verdict == "pass, stretch too"
    assert Row(goal, "", value=0.99).verdict == "FAIL"
    assert Row(goal, "", value=float("nan")).verdict == "FAIL"
    assert Row(goal, "", reason="not run (no GPU)").verdict == "not run (no GPU)"
    assert not Bound("<=", 0).holds(1)
    rows = [Row(goal, "short", value=2.0), Row(goal, "long", value=0.5), Row(GOALS["A8"], "", value=0.0)]
    assert summary(rows).startswith("1 goals hold, 1 do not (A3 flash)")


def test_a_section_that_breaks_leaves_rows_and_the_run_goes_on() -> None:
    record = Record(Stopwatch(CPU, 1, (2, 2)), "torch", say=lambda _: None)
    with record.section("A1", what="attention"):
        raise RuntimeError("out of memory\nand a long story")
    assert [row.verdict for row in record.rows] == ["not run (RuntimeError: out of memory)"]
    record.complete("--only attention")
    assert [row.goal.name for row in record.rows] == list(GOALS)


def test_a_program_that_fails_does_not_keep_the_others() -> None:
    ran: list[int] = []
    programs = [Program("good", ran.append), Program("bad", lambda _: 1 / 0)]
    times = Stopwatch(CPU, 1, (3, 3)).measure(programs)
    assert isinstance(times["good"], Spread)
    assert times["bad"] == Failed("ZeroDivisionError: division by zero")
    assert ran == [0, 1, 2, 0, 1, 2]  # warm-up, then rounds: another input each


def test_a_spread_is_the_median_and_the_middle_three_fifths() -> None:
    spread = Spread.of([float(value) for value in range(11)])
    assert (spread.median, spread.low, spread.high) == (5, 2, 8)


def test_documents_have_the_mean_they_are_asked_for() -> None:
    found = boundaries(Shape(8, 4096, 1, 1, 64, mean_document=128), 0, CPU)
    assert 100 < found.numel() / int(found.sum()) < 160
    equal = boundaries(Shape(2, 64, 1, 1, 64, mean_document=16, equal_documents=True), 0, CPU)
    assert equal.sum(1).tolist() == [4, 4]


@pytest.mark.parametrize("shape", [TINY, GPT_124M, GPT_1B], ids=["tiny", "124M", "1B"])
def test_parameters_and_flops_are_counted_right(shape: object) -> None:
    with torch.device("meta"):
        model = GPT(shape, our_parts("torch"))  # type: ignore[arg-type]
    assert sum(weight.numel() for weight in model.parameters()) == shape.parameters  # type: ignore[attr-defined]


def test_the_flops_of_the_124m_model_are_those_of_the_goal() -> None:
    assert 0.34 < 400e3 * GPT_124M.flops_per_token / 989.5e12 < 0.36  # "400k tok/s (35% MFU)"


def test_charts_of_small_large_and_no_figures(tmp_path: Path) -> None:
    for number, highest in enumerate((0.003, 7.0, 123456.0)):
        write_bars(tmp_path / f"{number}.svg", "a < b & c", "ms", {"one": {"ours": highest, "theirs": highest / 2}})
        tops = [float(part.get("y", "0")) for part in ElementTree.parse(tmp_path / f"{number}.svg").getroot().iter()]
        assert min(tops) >= 0
    write_lines(tmp_path / "empty.svg", "nothing", "ms", {})
    ElementTree.parse(tmp_path / "empty.svg")


def test_the_guide_shows_every_goal_as_the_code_has_it() -> None:
    shown = GUIDE.read_text().splitlines()
    for goal in GOALS.values():
        cells = [goal.name, goal.measure, str(goal.must), str(goal.stretch or ""), "unmeasured"]
        assert f"| {' | '.join(cells)} |" in shown


def test_links_of_the_guide_exist() -> None:
    targets = [part.split(")")[0] for part in GUIDE.read_text().split("](")[1:]]
    local = [target.split("#")[0] for target in targets if not target.startswith(("http", "#"))]
    assert [target for target in local if not (GUIDE.parent / target).exists()] == []


def test_the_lane_needs_nothing_but_torch_and_triton() -> None:
    """Anything else that is imported must be a choice (``importlib``) or for type checkers alone."""
    files = [*(ROOT / "kernels").rglob("*.py"), *(ROOT / "tests" / "kernels" / "gpu").rglob("*.py")]
    found = {(name, path.name) for path in files for name in imported(ast.parse(path.read_text()))}
    allowed = {"torch", "triton", "kernels", "pytest", "tests"} | set(sys.stdlib_module_names)
    assert {(name, file) for name, file in found if name not in allowed} == set()


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of the packages that running this code imports, inside of functions too."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return set()
    if isinstance(tree, ast.Import):
        return {name.name.split(".")[0] for name in tree.names}
    if isinstance(tree, ast.ImportFrom):
        return {(tree.module or "").split(".")[0]}
    return set().union(*(imported(child) for child in ast.iter_child_nodes(tree)))
