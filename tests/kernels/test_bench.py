"""The lane that measures on a GPU, rehearsed without one, so that it still runs when there is a GPU again."""

import ast
import csv
import json
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention.configurations import HOPPER, Case, Tiles
from kernels.bench import attention as attention_bench
from kernels.bench import cross_entropy as loss_bench
from kernels.bench import end_to_end, estimates
from kernels.bench.__main__ import KERNELS, main
from kernels.bench.attention import boundaries
from kernels.bench.charts import write_bars, write_lines
from kernels.bench.goals import GOALS, Bound
from kernels.bench.gpt import GPT, GPT_1B, GPT_124M, TINY, our_parts
from kernels.bench.prefilter import survivors
from kernels.bench.product import PRESET_1B, PRESET_124M
from kernels.bench.record import Record, Row
from kernels.bench.report import summary
from kernels.bench.sections import Choice, Section, attempt
from kernels.bench.shapes import AttentionShape as Shape
from kernels.bench.shapes import LossShape
from kernels.bench.timing import DeviceLostError, Failed, Program, Spread, Stopwatch

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
    expected = {"cross_entropy": {"C1 narrow", "C3 recompute time", "C7", "C8 loss"}}
    expected["attention"] = {"A1", "A2", "A3 flash", "A8"}
    expected["end_to_end"] = {"E1", "E2", "E3 speed", "E3 compiled", "E4"}
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
    def out_of_memory(record: Record) -> None:
        record.row("A2", "attention", value=1.0)
        raise RuntimeError("out of memory\nand a long story")

    record = quiet()
    assert attempt(record, Section("goals", "attention", "attention", ("A1", "A2"), out_of_memory)) is None
    found = {row.goal.name: row.verdict for row in record.rows}
    assert found == {"A1": "not run (RuntimeError: out of memory)", "A2": "pass"}
    record.complete("not chosen")
    assert [row.goal.name for row in record.rows] == list(GOALS)


def test_a_device_that_answers_no_more_ends_the_process_and_not_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    record = quiet()

    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(record.stopwatch, "_wait", lost)
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        attempt(record, Section("goals", "attention", "attention", ("A1",), lambda _: 1 / 0))
    assert record.rows == []


def rehearse(folder: Path, *options: str) -> int:
    return main(["--rehearse", "--only", "cross_entropy", "--out", str(folder), *options])


@pytest.fixture
def torch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's implementations, which are quick."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")


@pytest.mark.usefixtures("torch_only")
def test_a_run_that_is_cut_short_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rehearse(tmp_path, "--minutes", "0") == 3  # time for no section
    assert "sections are left" in capsys.readouterr().out
    whole = loss_bench._losses

    def taken_away(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loss_bench, "_losses", taken_away)
    with pytest.raises(KeyboardInterrupt):
        rehearse(tmp_path)
    monkeypatch.setattr(loss_bench, "_losses", whole)
    assert rehearse(tmp_path, "--list") == 0
    states = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.split()[0] in STATES]
    assert states == ["done", "stopped", "waits", "waits"]  # correctness was not lost
    assert rehearse(tmp_path) == 0
    said = capsys.readouterr().out
    assert said.index("given logits") < said.index("goals: cross-entropy N12 D32 V123 in 128\n")  # it comes last now
    table, figures = (tmp_path / "goals.md").read_text(), (tmp_path / "results.csv").read_text()

    assert rehearse(tmp_path) == 0
    assert "goals: " not in capsys.readouterr().out  # nothing is measured twice
    assert rows_of(tmp_path / "goals.md") == rows_of_text(table)
    assert (tmp_path / "results.csv").read_text() == figures


@pytest.mark.usefixtures("torch_only")
def test_a_line_that_was_cut_off_while_it_was_written_is_measured_again(tmp_path: Path) -> None:
    assert rehearse(tmp_path, "--goal", "C6") == 0
    path = tmp_path / "progress.jsonl"
    path.write_text(path.read_text()[:-20])
    assert rehearse(tmp_path, "--goal", "C6") == 0
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert "C6 full" in {row[0] for row in rows_of(tmp_path / "goals.md") if row[4]}


@pytest.mark.usefixtures("torch_only")
def test_other_code_or_another_size_of_run_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rehearse(tmp_path, "--goal", "C6") == 0
    monkeypatch.setattr("kernels.bench.progress.code_digest", lambda: "other code")
    capsys.readouterr()
    assert rehearse(tmp_path, "--goal", "C6") == 0
    assert "sections of other code or machines" in capsys.readouterr().out
    assert rehearse(tmp_path, "--goal", "C6", "--fresh") == 0
    assert len({json.loads(line)["identity"]["code"] for line in (tmp_path / "progress.jsonl").open()}) == 1


def test_sections_are_chosen_by_goal_and_shape(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    record = quiet()
    every = [*attention_bench.sections(record), *loss_bench.sections(record)]
    assert len({section.name for section in every}) == len(every)
    chosen = Choice(goals=["A4"], shapes=["D64"]).of(every)
    assert chosen
    assert all("D64 docs" in section.what for section in chosen)
    assert {goal for section in Choice(goals=["C3"]).of(every) for goal in section.goals} >= {"C3 save time"}
    assert main(["--list", "--goal", "A44", "--out", str(tmp_path)]) == 2
    assert "there is no goal 'A44'" in capsys.readouterr().err
    assert main(["--list", "--shape", "D65", "--out", str(tmp_path)]) == 2
    assert "no section has all of: --shape D65" in capsys.readouterr().err


def test_every_section_names_the_goals_of_its_rows() -> None:
    record = quiet()
    every = [section for part in (attention_bench, loss_bench, end_to_end) for section in part.sections(record)]
    named = {goal for section in every for goal in section.goals}
    errors = {"C8 loss", "C8 gradient", "A7 forward", "A7 gradients", "A8"}
    assert named == set(GOALS) - errors


# ---- Goals and what they should come to


def test_no_time_of_a_goal_is_beyond_arithmetic() -> None:
    """A goal that the FLOPs and bytes of its own shapes forbid says nothing when it is missed."""
    record = quiet()
    found: dict[str, list[float | None]] = {}
    for loss in loss_bench.loss_shapes(record):
        kind = "wide" if loss.width >= 2048 else "narrow"
        over_products = estimates.loss_milliseconds(loss, "save") / estimates.product_milliseconds(loss)
        found.setdefault(f"C1 {kind}", []).append(over_products)
        found.setdefault(f"C2 {kind}", []).append(estimates.loss_speed_up(loss, "save", "eager"))
        found.setdefault("C3 save time", []).append(estimates.loss_speed_up(loss, "save", "compiled"))
        found.setdefault("C3 recompute time", []).append(estimates.loss_speed_up(loss, "recompute", "compiled"))
        found.setdefault("C4 cce", []).append(estimates.loss_speed_up(loss, "save", "cce"))
        found.setdefault("C5 compiled", []).append(estimates.loss_speed_up(loss, "delegating", "compiled_delegating"))
    found["C2 memory"] = [estimates.loss_memory("save", "eager")]
    found["C3 save memory"] = [estimates.loss_memory("save", "compiled")]
    for shape in attention_bench.plain_shapes(record):
        found.setdefault("A1", []).append(estimates.attention_speed_up(shape, "sdpa_flash", "forward"))
        found.setdefault("A2", []).append(estimates.attention_speed_up(shape, "sdpa_flash", "backward"))
        for goal in ("sdpa_flash", "sdpa_cudnn", "flash3", "flex"):
            name = f"A3 {goal.removeprefix('sdpa_')}"
            found.setdefault(name, []).append(estimates.attention_speed_up(shape, goal, "full"))  # type: ignore[arg-type]
    for shape in attention_bench.document_shapes(record):
        found.setdefault("A4", []).append(estimates.documents_speed_up(shape, "flex"))
        found.setdefault("A5", []).append(estimates.documents_speed_up(shape, "varlen"))
        found.setdefault("A5 flash3", []).append(estimates.documents_speed_up(shape, "flash3"))
    beyond = {name: values for name, values in found.items() if not all(GOALS[name].must.holds(v or 0) for v in values)}
    assert beyond == {}


def test_documents_skip_what_counting_tiles_says() -> None:
    equal = Shape(4, 8192, 12, 12, 64, mean_document=1024, equal_documents=True)
    starts = torch.arange(64) // 8 * 8  # in tiles of 128
    tiles = sum(int(place - start + 1) for place, start in enumerate(starts))
    assert estimates.skipping_speed_up(equal) == pytest.approx(64 * 65 / 2 / tiles)


def test_the_presets_are_those_of_the_product() -> None:
    for preset in (PRESET_124M, PRESET_1B):
        text = (ROOT / "conf" / "model" / f"{preset.name}.yaml").read_text()
        lines = dict(line.split(": ") for line in text.splitlines() if ": " in line and line[0] != "#")
        for name in ("layers", "width", "hidden_width", "heads", "kv_heads", "context_length"):
            assert int(lines[name]) == getattr(preset, name), name
        assert f"# {preset.parameters:,} parameters" in text


# ---- Peers that are not here, by the interfaces that they publish


def liger_kernel() -> ModuleType:
    class Layer:
        def __init__(self, reduction: str) -> None:
            self.reduction = reduction

        def __call__(self, weight: Tensor, hidden: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(hidden @ weight.T, target, reduction=self.reduction)

    module = ModuleType("liger_kernel.transformers.fused_linear_cross_entropy")
    module.LigerFusedLinearCrossEntropyLoss = Layer  # type: ignore[attr-defined]
    return module


def cut_cross_entropy() -> ModuleType:
    def linear_cross_entropy(e: Tensor, c: Tensor, targets: Tensor, *, impl: str) -> Tensor:
        assert impl == "cce_exact"
        return F.cross_entropy(e @ c.T, targets)

    module = ModuleType("cut_cross_entropy")
    module.linear_cross_entropy = linear_cross_entropy  # type: ignore[attr-defined]
    return module


def flash_attn_interface() -> ModuleType:
    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
        query, key, value = (one.transpose(1, 2) for one in (q, k, v))
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=True).transpose(1, 2)

    def flash_attn_varlen_func(
        q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, longest_q: int, longest_k: int, *, causal: bool
    ) -> tuple[Tensor, Tensor]:
        assert torch.equal(cu_q, cu_k)
        assert longest_q == longest_k == int(cu_q.diff().max())
        parts = zip(*(one.split(cu_q.diff().tolist()) for one in (q, k, v)), strict=True)
        return torch.cat([flash_attn_func(*(one[None] for one in part), causal=causal)[0] for part in parts]), cu_q

    module = ModuleType("flash_attn_interface")
    module.flash_attn_func, module.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func  # type: ignore[attr-defined]
    return module


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other projects' interfaces, as PyTorch computes what they promise."""
    for module in (liger_kernel(), cut_cross_entropy(), flash_attn_interface()):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("peers")
def test_peers_compute_what_ours_do() -> None:
    given = loss_bench.make_inputs(LossShape(12, 32, 123, 128, torch.float32), 0, CPU)
    right = loss_bench.plain_loss(given)
    made = {name: maker()(given) for name, maker in loss_bench.peers().items()}
    torch.testing.assert_close(made["liger"], right)
    torch.testing.assert_close(made["cce"], right)
    assert made["liger_delegating"].ndim == 0

    plain = attention_bench.make_inputs(Shape(2, 48, 4, 2, 16, torch.float32), 0, CPU)
    packed = attention_bench.make_inputs(Shape(2, 48, 4, 2, 16, torch.float32, mean_document=9), 0, CPU)
    torch.testing.assert_close(attention_bench.flash3()(plain), attention_bench.ours("torch", documents=False)(plain))
    makers = attention_bench.document_makers("torch", packed)
    right = makers["torch"]()(packed)
    for name in ("flash3", "sdpa_mask"):  # varlen_attn runs on CUDA only
        torch.testing.assert_close(makers[name]()(packed), right)
    forward_only = replace(packed, **{name: getattr(packed, name).detach() for name in ("query", "key", "value")})
    torch.testing.assert_close(makers["flex"]()(forward_only), right)  # on a CPU it has no backward


@pytest.mark.usefixtures("peers", "torch_only")
@pytest.mark.soak
def test_rows_of_peers_are_measured_where_they_are_installed(tmp_path: Path) -> None:
    goals = ["C4", "C5", "A5", "A3"]
    assert main(["--rehearse", "--goal", *goals, "--out", str(tmp_path)]) == 0
    measured = {row[0] for row in rows_of(tmp_path / "goals.md") if row[4]}
    assert measured >= {"C4 liger", "C4 cce", "C5 liger", "C5 compiled", "A5 flash3", "A3 flash3"}


@pytest.mark.slow
@pytest.mark.soak
def test_candidates_that_spill_or_serialise_products_are_not_timed() -> None:
    candidates = [Tiles(64, 64, 4, 2, described=True), Tiles(128, 128, 4, 4)]
    kept = survivors(Case(HOPPER, torch.bfloat16, 64, documents=True), "forward", candidates, group=1)
    assert kept == candidates[:1]


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


STATES = ("done", "stopped", "waits")


def quiet() -> Record:
    return Record(Stopwatch(CPU, 1, (2, 2)), "torch", say=lambda _: None)


def rows_of(path: Path) -> list[list[str]]:
    return rows_of_text(path.read_text())


def rows_of_text(text: str) -> list[list[str]]:
    """The cells of the rows of a table of goals."""
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in cells if row[0] in GOALS]


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of the packages that running this code imports, inside of functions too."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return set()
    if isinstance(tree, ast.Import):
        return {name.name.split(".")[0] for name in tree.names}
    if isinstance(tree, ast.ImportFrom):
        return {(tree.module or "").split(".")[0]}
    return set().union(*(imported(child) for child in ast.iter_child_nodes(tree)))
