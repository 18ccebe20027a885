import struct
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from components.evaluation.curve import _smoothed, draw_loss_curves


def history(rows: int, validation: bool = True) -> list[dict[str, float]]:
    training = [{"step": step, "loss": 2 + 5 / step, "learning_rate": 1e-3 / step} for step in range(1, rows + 1)]
    return [*training, {"step": rows, "validation_loss": 2.125}] if validation else training


def test_the_figure_is_a_readable_png_and_an_svg(tmp_path: Path) -> None:
    png, svg = tmp_path / "loss.png", tmp_path / "loss.svg"
    draw_loss_curves({"pretraining": history(50)}, "a title", [png, svg])
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 800 > height > 400
    assert len(content) < 200_000
    text = svg.read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    # matplotlib draws letters as shapes and leaves what they say in comments
    for words in ("a title", "loss (nats per token)", "optimizer steps", "training, smoothed", "validation", "2.125"):
        assert f"<!-- {words} -->" in text


def test_one_chart_shows_both_trainings_by_name_one_after_the_other(tmp_path: Path) -> None:
    svg = tmp_path / "loss.svg"
    draw_loss_curves({"pretraining": history(50), "delegation": history(30)}, "a title", [svg])
    text = svg.read_text()
    for words in ("pretraining", "delegation", "80"):  # the last step of both together
        assert f"<!-- {words} -->" in text
    assert text.count("<!-- training, smoothed -->") == text.count("<!-- validation -->") == 1


def test_the_same_history_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.svg", "b.svg", "a.png", "b.png")]
    draw_loss_curves({"pretraining": history(20)}, "t", [paths[0], paths[2]])
    draw_loss_curves({"pretraining": history(20)}, "t", [paths[1], paths[3]])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[2].read_bytes() == paths[3].read_bytes()


@pytest.mark.parametrize("rows", [1, 2])
def test_a_run_of_one_or_two_steps_without_validation_is_drawn(tmp_path: Path, rows: int) -> None:
    draw_loss_curves({"pretraining": history(rows, validation=False)}, "t", [tmp_path / "loss.svg"])
    assert "<!-- validation -->" not in (tmp_path / "loss.svg").read_text()


def test_smoothing_neither_lags_nor_droops() -> None:
    line = np.linspace(7, 2, 400)
    np.testing.assert_allclose(_smoothed(line), line)


def test_smoothing_takes_out_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 1, 2000)
    assert _smoothed(noise)[100:-100].std() < 0.2
