"""What a run that was started in the Prefect form may ask of this machine.

Whoever reaches the form could otherwise have the worker read any file, write to any folder, ask any address of the
private network and fill the memory. A person at the command line has these rights anyway and is not restricted. The
operator widens the rules with settings of `lacewing up`, which reach the worker in an environment variable.

This keeps a form's run within what the operator meant. It is no wall against people who may use Prefect's API itself:
Prefect has no users, and so must not be reachable by strangers.
"""

import os
import re
import shutil
from collections.abc import Iterator
from glob import has_magic
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from components.core.errors import InputError
from components.data.addresses import PRIVATE_HOSTS, is_listed
from components.data.hub import HUB_PREFIX, HubDataset
from components.data.sources import PYDOC, WORLD, is_url, local_files
from conf.form import FormConfig
from conf.schema import ProjectConfig
from flows.needs import Need, disk_needs, memory_bytes, memory_needs
from flows.workspace import workspace_folder

# Environment variable: a ``FormConfig`` as JSON.
FORM = "LACEWING_FORM"
HUB_HOST = "huggingface.co"
# What the platform itself keeps in the workspace.
_RESERVED = {"artifacts", "prefect", "models", "mlartifacts", "logs", ".dvc", "ledger.jsonl", "up.json"}
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
# Parsers of addresses disagree about anything else, and about what ``@`` and ``\\`` mean.
_PLAIN_ADDRESS = re.compile(r"[A-Za-z0-9+.-]+://[A-Za-z0-9._~:/\[\]%=&?,;+-]*")
_PACKAGE = re.compile(r"\w+([.-]\w+)*")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def restrict_to_form(config: ProjectConfig) -> None:
    """Refuse what the form may not ask, and keep the downloads of this process and its children to public addresses.

    Raises:
        InputError: naming every setting that was refused, what is allowed, and how to allow more.
    """
    form = FormConfig.model_validate_json(os.environ.get(FORM) or "{}")
    os.environ[PRIVATE_HOSTS] = ",".join(form.hosts)
    if faults := list(form_faults(config, form)):
        raise InputError(
            "the form may not ask this of the machine\n  "
            + "\n  ".join(faults)
            + "\nOther settings, a rule that the operator of `lacewing up` widens (its section form), or the command "
            "line, which these rules do not bind, will do"
        )


def form_faults(config: ProjectConfig, form: FormConfig) -> Iterator[str]:
    """Everything in ``config`` that a run from the form may not ask, one sentence each."""
    rules = _Rules.of(form)
    for key, source in _sources(config):
        yield from _named(key, source, rules.source(source))
    for key, path in _paths(config):
        yield from _named(key, path, rules.readable(path) if path else "")
    for key, model in _models(config):
        yield from _named(key, model, rules.model(model))
    for key, name in _pipelines(config):
        yield from _named(key, name, rules.readable(name) if name and not _is_package_name(name) else "")
    for key, url in _services(config):
        yield from _named(key, url, rules.service(url) if url else "")
    yield from _named("tracking.uri", config.tracking.uri, rules.tracking(config.tracking.uri))
    yield from _named("versioning.remote", config.versioning.remote, rules.remote(config.versioning.remote))
    memory = int(form.memory_gb * 1e9) or memory_bytes()
    yield from _too_large(memory_needs(config), memory, "memory (form.memory_gb)")
    yield from _too_large(disk_needs(config), _free_bytes(), "free disk space")


class _Rules(NamedTuple):
    """The rules of a ``FormConfig`` for this workspace; each method says what is wrong, in words, or nothing."""

    workspace: Path
    read: tuple[Path, ...]
    write: tuple[Path, ...]
    write_addresses: tuple[str, ...]
    hosts: tuple[str, ...]

    @classmethod
    def of(cls, form: FormConfig) -> "_Rules":
        workspace = workspace_folder().resolve()
        addresses = tuple(root for root in form.write_roots if "://" in root)
        write = tuple(Path(root).expanduser().resolve() for root in form.write_roots if "://" not in root)
        read = tuple(Path(root).expanduser().resolve() for root in form.data_roots)
        return cls(workspace, (workspace, *read), write, addresses, tuple(form.hosts))

    def source(self, source: str) -> str:
        """Of a data source."""
        if source in (WORLD, PYDOC):
            return ""
        if is_url(source):
            return self._plain(source)  # where it leads is checked when it is fetched
        if source.startswith(HUB_PREFIX):
            return self._dataset(HubDataset.parse(source).name)
        return self._outside(self._beginning(source), "form.data_roots", self.read) or self._matches(source)

    def readable(self, path: str) -> str:
        """Of a file or folder that is read."""
        return self._outside(Path(path), "form.data_roots", self.read)

    def model(self, model: str) -> str:
        """Of a model to evaluate: an alias or version of the registry, a folder or an address."""
        if is_url(model):
            return self.service(model.partition("#")[0])
        return self.readable(model) if model and _is_path(model) else ""

    def service(self, url: str) -> str:
        """Of the address of a server that gets text, settings or keys."""
        parts = _split(url)
        if parts is None or not parts.hostname:
            return self._plain(url) or "it names no host"
        port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
        if is_listed(parts.hostname, port, self.hosts):
            return self._plain(url)
        return f"hosts that may be asked (form.hosts): {', '.join(self.hosts) or 'none'}"

    def tracking(self, uri: str) -> str:
        """Of the address of MLflow."""
        if not uri:
            return ""
        parts = _split(uri)
        if parts is None or not parts.scheme.startswith("sqlite"):
            return self.service(uri) or ("settings after ? are not allowed" if parts and parts.query else "")
        if parts.netloc or parts.query or len(parts.path) < 2:
            return "a SQLite address is sqlite:///FILE and no more"
        return self._not_writable(Path(unquote(parts.path[1:])))

    def remote(self, remote: str) -> str:
        """Of DVC's remote."""
        if "://" not in remote:
            return self._not_writable(Path(remote)) if remote else ""
        allowed = any(f"{remote}/".startswith(f"{root.rstrip('/')}/") for root in self.write_addresses)
        if allowed and ".." not in remote.split("/"):
            return self._plain(remote)
        return f"addresses that may be written to (form.write_roots): {', '.join(self.write_addresses) or 'none'}"

    def _dataset(self, name: str) -> str:
        if Path(name).exists() or not _HUB_NAME.fullmatch(name):
            return self.readable(name)
        if is_listed(HUB_HOST, 443, self.hosts):
            return ""
        return f"{HUB_HOST} is not among the hosts that may be asked (form.hosts)"

    def _plain(self, url: str) -> str:
        if _PLAIN_ADDRESS.fullmatch(url) and _split(url) is not None:
            return ""
        return "in the form, an address holds no user, password, space or other special sign"

    def _beginning(self, source: str) -> Path:
        """The folders of a glob before its first pattern: nothing outside is even searched."""
        parts = Path(source).expanduser().parts
        plain = next((place for place, part in enumerate(parts) if has_magic(part)), len(parts))
        return Path(*parts[:plain])

    def _matches(self, source: str) -> str:
        if ".." in Path(source).parts:
            return "in the form, a path holds no .."
        outside = (self._outside(path, "form.data_roots", self.read) for path in local_files(source))
        return next((fault for fault in outside if fault), "")

    def _not_writable(self, path: Path) -> str:
        fault = self._outside(path, "form.write_roots", (self.workspace, *self.write))
        inside = _real(path)
        if not fault and inside.is_relative_to(self.workspace) and not _within(inside, self.write):
            first = next(iter(inside.relative_to(self.workspace).parts), "")
            return "this place of the workspace is the platform's own" if first in ("", *_RESERVED) else ""
        return fault

    def _outside(self, path: Path, key: str, roots: tuple[Path, ...]) -> str:
        real = _real(path)
        if _within(real, roots):
            return ""
        where = "" if real == path.expanduser().absolute() else f"it is {real}; "
        return f"{where}allowed are {', '.join(map(str, roots))} ({key})"


def _sources(config: ProjectConfig) -> Iterator[tuple[str, str]]:
    yield from (("data.sources", source) for source in config.data.sources)
    yield from (("cascade.helper.library", source) for source in config.cascade.helper.library)
    yield from (("finetune.chat.data.sources", source) for source in config.finetune.chat.data.sources)
    yield from (("finetune.classify.data.train", source) for source in config.finetune.classify.data.train)
    yield from (("finetune.classify.data.test", source) for source in config.finetune.classify.data.test)
    yield from (("finetune.preference.pairs.sources", source) for source in config.finetune.preference.pairs.sources)


def _paths(config: ProjectConfig) -> Iterator[tuple[str, str]]:
    yield "delegation.reference", config.delegation.reference
    yield "cascade.helper.model", config.cascade.helper.model
    yield "derive.tokenizer", config.derive.tokenizer
    yield from (("facts.probes.files", path) for path in config.facts.probes.files)
    yield "facts.calculations.file", config.facts.calculations.file
    yield "evaluate.harness.data", config.evaluate.harness.data
    yield "evaluate.harness.tasks", config.evaluate.harness.tasks
    yield from (("evaluate.robustness.files", path) for path in config.evaluate.robustness.files)
    yield "facts.factscore.entities", config.facts.factscore.entities
    yield from (("arena.prompts", path) for path in config.arena.prompts)
    yield from (("facts.factscore.knowledge", path) for path in config.facts.factscore.knowledge)


def _models(config: ProjectConfig) -> Iterator[tuple[str, str]]:
    yield "evaluate.model", config.evaluate.model
    yield "start_from", config.start_from
    yield "finetune.distill.teacher", config.finetune.distill.teacher
    yield from (("compare.models", model) for model in config.compare.models)
    yield from (("arena.models", model) for model in config.arena.models)


def _pipelines(config: ProjectConfig) -> Iterator[tuple[str, str]]:
    """Names of installed packages, or paths."""
    yield "label.pipeline", config.label.pipeline
    yield "facts.factscore.pipeline", config.facts.factscore.pipeline


def _services(config: ProjectConfig) -> Iterator[tuple[str, str]]:
    yield "cascade.helper.url", config.cascade.helper.url
    yield "facts.factscore.judge.url", config.facts.factscore.judge.url
    yield "arena.judge.url", config.arena.judge.url
    yield "versioning.endpoint_url", config.versioning.endpoint_url


def _is_package_name(name: str) -> bool:
    return _PACKAGE.fullmatch(name) is not None and not Path(name).exists()


def _is_path(model: str) -> bool:
    """Whether a model is named by a path; else it is the alias, the version or the name of a registered one."""
    return Path(model).exists() or os.sep in model


def _named(key: str, given: str, fault: str) -> Iterator[str]:
    if fault:
        yield f"{key} = {given!r}: {fault}"


def _too_large(needs: Iterator[Need], available: int, kind: str) -> Iterator[str]:
    for need in needs:
        if need.n_bytes > available:
            yield f"{need.of}: at least {need.n_bytes / 1e9:,.1f} GB; there are {available / 1e9:,.1f} GB of {kind}"


def _free_bytes() -> int:
    folder = workspace_folder()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def _real(path: Path) -> Path:
    return path.expanduser().absolute().resolve()


def _within(path: Path, roots: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises for a port that is no number
    except ValueError:
        return None
    return parts
