import pytest
import torch

from components.training.history import mean_tokens_per_second
from components.training.throughput import peak


def test_an_unknown_device_is_measured_and_the_record_says_so() -> None:
    measured = peak(torch.device("cpu"), torch.float32, devices=2)
    assert 1e9 < measured.flops_per_second < 1e15
    assert "measured here: float32 matrix product" in measured.source
    assert "threads" in measured.source


def test_a_known_gpu_takes_the_figure_of_its_data_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, tflops in {"NVIDIA H200": 989.5, "NVIDIA H100 PCIe": 756.0, "NVIDIA A100-SXM4-80GB": 312.0}.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        known = peak(torch.device("cuda"), torch.bfloat16, devices=2)
        assert known.flops_per_second == 2 * tflops * 1e12
        assert name in known.source
        assert "data sheet" in known.source


def test_speed_is_averaged_over_time_not_over_rows() -> None:
    rows = [
        {"step": 10, "seconds": 1.0, "tokens_per_second": 100.0},
        {"step": 20, "seconds": 3.0, "tokens_per_second": 20.0},
    ]
    assert mean_tokens_per_second(rows) == pytest.approx(160 / 4)
