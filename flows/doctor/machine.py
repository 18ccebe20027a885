"""Processor, GPU and memory: what training will use of them, and what keeps it from using more."""

import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flows.doctor.finding import Finding, counted, fault, ok, warning
from flows.doctor.torch_report import TorchReport

if TYPE_CHECKING:
    from conf.schema import ProjectConfig

GPU_BUILD = "make clean && make run (without TORCH_INDEX): pip's own torch is for CUDA"
CPU_BUILD = "make clean && make run TORCH_INDEX=https://download.pytorch.org/whl/cpu"
BENCH = "make gpu-bench, and put its figures into components/model/kernel_choice.json"
_NVIDIA = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidia0"))
_OLDEST = (8, 0)
_GROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def torch(report: TorchReport) -> Finding:
    """Whether the build fits the machine."""
    name = f"{report.version}, for {report.built_for}"
    nvidia = any(path.exists() for path in _NVIDIA)
    if report.gpu:
        return ok(name)
    if report.built_for == "CPU":
        if nvidia:
            return warning(f"{name}, on a machine with an NVIDIA GPU", GPU_BUILD)
        return ok(name)
    if nvidia:
        return warning(
            f"{name}, but it cannot use the NVIDIA GPU of this machine ({report.no_gpu_because})",
            "nvidia-smi shows the driver: install one that is new enough for this CUDA, and see CUDA_VISIBLE_DEVICES",
        )
    return ok(f"{name}, on a machine without a GPU: some gigabytes that are never used", CPU_BUILD)


def gpu(report: TorchReport) -> Finding:
    """Whether our kernels and bf16 run on the GPU."""
    if not report.gpu:
        return ok("none; everything runs on the CPU")
    words = f"{report.gpu}, compute capability {report.capability[0]}.{report.capability[1]}, "
    words += f"{report.gpu_gigabytes:.0f} GB, {report.precision}"
    if report.built_for.startswith("CUDA") and report.capability < _OLDEST:
        return warning(
            f"{words}: our kernels need capability 8.0, so PyTorch's own are used", "trainer.device=cpu may be faster"
        )
    return ok(words)


def kernels(report: TorchReport) -> Finding:
    """Who computes attention and loss, and whether that was measured for this GPU."""
    if report.kernels_fault:
        return fault(report.kernels_fault, "unset LACEWING_KERNELS")
    if not report.gpu:
        return ok(report.kernels)
    if os.environ.get("TRITON_INTERPRET") == "1":
        return warning(f"{report.kernels}: TRITON_INTERPRET=1 keeps Triton on the CPU", "unset TRITON_INTERPRET")
    from components.model.ops import TABLE

    table = json.loads(TABLE.read_text())
    generation = "sm{}{}".format(*report.capability)
    if generation not in table or not table["measured"]:
        return warning(f"{report.kernels}; a rule of thumb, for nobody has measured {generation}", BENCH)
    return ok(f"{report.kernels}; measured: {table['measured']}")


def cpu(report: TorchReport) -> Finding:
    """Vector instructions, and the precision that follows from them."""
    features = ", ".join(report.cpu_features) or "no vector instructions that torch names"
    words = f"{counted(report.cores, 'core')} with {features}"
    if not report.gpu:
        words += f"; computes in {report.precision}"
    if _architecture() == "x86_64" and "avx2" not in report.cpu_features:
        return warning(
            f"{words}; without avx2 everything is many times slower",
            "use another machine, or let the virtual machine see the CPU as it is (qemu: -cpu host)",
        )
    return ok(words)


def _architecture() -> str:
    return platform.machine()


def threads(report: TorchReport) -> Finding:
    """Whether training uses the cores that it may use, and no more."""
    limit = cpu_limit()
    words = f"{counted(report.threads, 'thread')} on {counted(report.cores, 'core')}"
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    if chosen == "1" and report.cores > 1:
        return warning(f"{words}: OMP_NUM_THREADS=1 leaves the others idle", "unset OMP_NUM_THREADS")
    if limit is not None and report.threads > limit:
        return warning(
            f"{words}, of which a limit on this container or session gives {limit:g}: threads wait for each other",
            f"export OMP_NUM_THREADS={max(1, int(limit))}",
        )
    if report.threads > report.cores:
        return warning(f"{words}: OMP_NUM_THREADS={chosen} has them wait for each other", "unset OMP_NUM_THREADS")
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        return warning(f"{words}: OMP_WAIT_POLICY=ACTIVE keeps idle threads busy", "unset OMP_WAIT_POLICY")
    return ok(words)


def memory(config: "ProjectConfig") -> Finding:
    """Whether the configured training fits into memory."""
    import psutil

    from flows.needs import memory_bytes, memory_needs

    total, free = memory_bytes(), min(memory_bytes(), int(psutil.virtual_memory().available))
    need = max(memory_needs(config))
    words = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if need.n_bytes <= free:
        return ok(words)
    words = f"{words}; at least {need.n_bytes / 1e9:.1f} GB are needed for {need.of}"
    if need.n_bytes > total:
        return fault(words, "choose a smaller model=... or trainer.micro_batch_size=...")
    return warning(words, "end other programs: `ps aux --sort=-rss | head` shows the largest")


def cpu_limit(groups: Path = _GROUPS, membership: Path = _MEMBERSHIP) -> float | None:
    """How many cores' time a control group (a container, a systemd slice) gives to this process; ``None``: no limit.

    Of nested groups the tightest counts. Arguments: where the kernel shows the groups, and those of this process.
    """
    return min(_limits(groups, membership), default=None)


def _limits(groups: Path, membership: Path) -> Iterator[float]:
    for place in _own_groups(groups, membership):
        if (file := place / "cpu.max").is_file():  # version 2: "quota period", or "max period"
            quota, period = file.read_text().split()
            if quota != "max":
                yield int(quota) / int(period)
        elif (file := place / "cpu.cfs_quota_us").is_file() and (microseconds := int(file.read_text())) > 0:
            yield microseconds / int((place / "cpu.cfs_period_us").read_text())


def _own_groups(groups: Path, membership: Path) -> Iterator[Path]:
    """Folders of the groups that this process is in, with all above; within a container the outermost is its own."""
    lines = membership.read_text().splitlines() if membership.exists() else []
    for root in (groups, groups / "cpu"):
        yield root
        for line in lines:
            path = Path(line.split(":", 2)[2].lstrip("/"))
            yield from (root / folder for folder in (path, *path.parents) if folder != Path())
