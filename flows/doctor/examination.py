"""All checks, made side by side."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from flows.doctor import connections, installation, machine, pipeline, quiet, running, servers, storage, torch_report
from flows.doctor.finding import Finding, fault, first_line

if TYPE_CHECKING:
    from conf.schema import ProjectConfig

Check = Callable[[], Finding]

OF_INSTALLATION: Mapping[str, Check] = {
    "python": installation.python,
    "lacewing": installation.own_code,
    "packages": installation.requirements,
    "clashes": installation.clashes,
    "lock": installation.lock,
    "extras": installation.extras,
    "browser": installation.browser,
    "telemetry": quiet.telemetry,
}
OF_TORCH: Mapping[str, Callable[[torch_report.TorchReport], Finding]] = {
    "torch": machine.torch,
    "GPU": machine.gpu,
    "kernels": machine.kernels,
    "CPU": machine.cpu,
    "threads": machine.threads,
}
OF_WORKSPACE: Mapping[str, Check] = {
    "workspace": storage.workspace,
    "file system": storage.file_system,
    "results": storage.records,
    "locks": storage.locks,
    "lacewing up": running.up,
    "ports": running.ports,
    "proxy": connections.proxy,
    "Prefect": servers.prefect,
    "Prefect's runs": servers.prefect_database,
}
OF_SETTINGS: Mapping[str, Callable[["ProjectConfig"], Finding]] = {
    "memory": machine.memory,
    "disk": storage.disk,
    "MLflow": servers.mlflow,
    "killed runs": running.abandoned_runs,
    "DVC remote": storage.remote,
    "endpoints": connections.endpoints,
    "spaCy pipeline": pipeline.pipeline,
}
REINSTALL = "make clean && make run, or pip install --force-reinstall torch"
_CHECKS_AT_A_TIME = 8


def examine(compose: Callable[[], "ProjectConfig"]) -> dict[str, Finding]:
    """The finding of every check, by its name.

    Arguments:
        compose: gives the settings to look at; what it raises is a finding, but for ``InputError``, which is raised.
    """
    checks = {**OF_INSTALLATION, **OF_WORKSPACE, **_of_settings(compose)}
    with ThreadPoolExecutor(_CHECKS_AT_A_TIME) as pool:
        torch = pool.submit(_of_torch)  # first: it takes longest
        made = {name: pool.submit(_made, check) for name, check in checks.items()}
    findings = {name: future.result() for name, future in made.items()} | torch.result()
    order = [*OF_INSTALLATION, "settings", *OF_TORCH, *OF_WORKSPACE, *OF_SETTINGS]
    return {name: findings[name] for name in order if name in findings}


def _of_torch() -> dict[str, Finding]:
    try:
        report = torch_report.ask()
    except torch_report.BrokenTorchError as error:
        return {"torch": fault(str(error), REINSTALL)}
    return {name: _made(partial(check, report)) for name, check in OF_TORCH.items()}


def _of_settings(compose: Callable[[], "ProjectConfig"]) -> dict[str, Check]:
    """The checks that need the configuration; if it cannot be composed at all, that is the only finding."""
    from components.core.errors import InputError

    try:
        config = compose()
    except InputError:
        raise
    except Exception as error:
        broken = fault(f"they cannot be composed ({first_line(error)})", "see the packages above")
        return {"settings": lambda: broken}
    return {name: partial(check, config) for name, check in OF_SETTINGS.items()}


def _made(check: Check) -> Finding:
    try:
        return check()
    except Exception as error:  # whatever a broken installation raises, the other checks go on
        return fault(f"this check failed ({first_line(error)})", "mend what the other checks name, then ask again")
