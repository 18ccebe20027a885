"""What keeps training from using the machine: a broken torch, the wrong build, idle cores, too little memory."""

import os
from pathlib import Path

import pytest
import torch

from conf.compose import compose_project
from flows.doctor import machine, torch_report
from flows.doctor.torch_report import BrokenTorchError, TorchReport, ask


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "ended by SIGILL"),
        ("import time; time.sleep(60)", "did not end within 1 s"),
    ],
)
def test_a_broken_torch_is_described_and_ends_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    (tmp_path / "torch.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(BrokenTorchError, match=words):
        ask(1)


def test_one_thread_on_several_cores_is_a_warning(report: TorchReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.threads(report._replace(cores=1, threads=1)).state == "ok"
    found = machine.threads(report._replace(threads=1))
    assert (found.state, found.remedy) == ("warning", "unset OMP_NUM_THREADS")


def test_more_threads_than_cores_or_busy_ones_are_a_warning(
    report: TorchReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_limit", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert machine.threads(report._replace(cores=4, threads=16)).state == "warning"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert machine.threads(report._replace(cores=4, threads=4)).remedy == "unset OMP_WAIT_POLICY"


def test_a_container_that_may_use_less_than_it_sees_is_a_warning(
    report: TorchReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "cpu_limit", lambda: 2.5)
    found = machine.threads(report._replace(cores=8, threads=8))
    assert (found.state, found.remedy) == ("warning", "export OMP_NUM_THREADS=2")


def test_limits_of_both_versions_of_control_groups_are_read(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/user.slice/session-1.scope\n")
    assert machine.cpu_limit(tmp_path, membership) is None
    inner = tmp_path / "user.slice" / "session-1.scope"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    assert machine.cpu_limit(tmp_path, membership) is None
    (inner.parent / "cpu.max").write_text("350000 100000\n")
    assert machine.cpu_limit(tmp_path, membership) == 3.5
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.cpu_limit(tmp_path, membership) == 1.5
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert machine.cpu_limit(tmp_path, membership) == 3.5


def test_the_build_is_compared_with_the_machine(
    report: TorchReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = report._replace(gpu="", built_for="CUDA 13.0", no_gpu_because="Found no NVIDIA driver")
    monkeypatch.setattr(machine, "_NVIDIA", (tmp_path / "nvidia0",))
    assert machine.torch(without._replace(built_for="CPU")).state == "ok"
    assert "TORCH_INDEX" in machine.torch(without).remedy
    (tmp_path / "nvidia0").touch()
    assert machine.torch(without._replace(built_for="CPU")).remedy == machine.GPU_BUILD
    found = machine.torch(without)
    assert (found.state, "Found no NVIDIA driver" in found.found) == ("warning", True)
    assert machine.torch(without._replace(gpu="NVIDIA H200")).state == "ok"


def test_an_old_gpu_and_one_that_nobody_has_measured_are_warnings(
    report: TorchReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    volta = report._replace(gpu="Tesla V100", built_for="CUDA 13.0", capability=(7, 0), gpu_gigabytes=16.0)
    assert machine.gpu(volta).state == "warning"
    assert machine.gpu(volta._replace(capability=(9, 0))).state == "ok"
    found = machine.kernels(volta)
    assert (found.state, "sm70" in found.found, found.remedy) == ("warning", True, machine.BENCH)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert machine.kernels(volta).remedy == "unset TRITON_INTERPRET"


def test_a_wish_for_kernels_that_cannot_be_obeyed_is_a_fault(
    report: TorchReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LACEWING_KERNELS", "tritn")
    _, fault = torch_report._kernels(torch.device("cpu"), "32-true")
    found = machine.kernels(report._replace(kernels_fault=fault))
    assert found.state == "fault"
    assert "'tritn'; allowed are" in found.found
    assert found.remedy == "unset LACEWING_KERNELS"


def test_a_cpu_without_vectors_is_a_warning(report: TorchReport, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report.precision in machine.cpu(report._replace(gpu="")).found
    monkeypatch.setattr(machine, "_architecture", lambda: "x86_64")
    assert machine.cpu(report._replace(cpu_features=("avx2",))).state == "ok"
    assert machine.cpu(report._replace(cpu_features=())).state == "warning"


def test_a_model_that_does_not_fit_is_a_fault() -> None:
    assert machine.memory(compose_project()).state == "ok"
    found = machine.memory(
        compose_project("world", [f"trainer.{key}=100000000" for key in ("batch_size", "micro_batch_size")])
    )
    assert found.state == "fault"
    assert "trainer.micro_batch_size=100000000" in found.found
