"""The README's "Everyday commands", run line by line as they are written.

The lines go to bash unchanged. What makes them small and keeps them apart from what else runs on the machine lies
around them: a ``lacewing`` on the path that adds tiny settings and free ports, and a ``curl`` that asks at that port. A
line that serves is started and probed, and it is stopped before the next line that does not ask it.
"""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import httpx
import pytest

from flows.catalogue import flows
from tests.conftest import ROOT
from tests.end_to_end.conftest import free_port

pytestmark = [pytest.mark.slow, pytest.mark.soak]

SECTION = "## Everyday commands"
PATIENCE_SECONDS = 300
TINY = [
    "data.world.entities=120",
    "data.vocab_size=512",
    "model.width=32",
    "model.hidden_width=64",
    "trainer.max_steps=8",
    "trainer.validate_every_steps=8",
    "delegation.max_steps=4",
    "finetune.training.max_steps=4",
    "finetune.training.validate_every_steps=4",
    "label.annotator=auto",
    "calibrate.max_tokens=4000",
    "facts.max_tokens=4000",
    "facts.biographies=2",
    "facts.biography_tokens=16",
    "assess.max_documents=20",
    "assess.questions.max_questions=20",
    "study.selections=[ntp,lacy]",
    "study.seeds=[0]",
    # So small a model wins by chance only; that the gate refuses is shown elsewhere.
    "release.gate.criteria.facts_right.margin=1",
    "release.gate.criteria.bits_per_byte_other.margin=100",
    "release.gate.criteria.written_facts_true.margin=1",
    "release.gate.criteria.wasted_calls.margin=1",
    "release.gate.criteria.wasted_calls.at_most=1",
    "release.gate.criteria.helper_failures.at_most=1",
    "release.gate.min_documents=1",
]
SERVERS: dict[str, Callable[["Place"], list[str]]] = {
    "up": lambda place: [f"http://127.0.0.1:{place.prefect}/api/health", f"http://127.0.0.1:{place.mlflow}/health"],
    "serve": lambda place: [f"http://127.0.0.1:{place.server}/health"],
}
"""Commands that serve, and what answers while they do."""


def lines_of(readme: str) -> list[str]:
    """Lines of the section's shell blocks; one that ends with a backslash goes on in the next."""
    section = readme.partition(SECTION)[2].partition("\n## ")[0]
    blocks = [block.partition("```")[0] for block in section.split("```sh\n")[1:]]
    joined = "".join(blocks).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip()]


class Place:
    """A folder with a ``.venv`` and some articles, as a person has them, and a shell in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefect, self.mlflow, self.server = free_port(), free_port(), free_port()
        self.activated: list[str] = []
        self.serving: list[subprocess.Popen[bytes]] = []
        self._write_programs()
        self._write_articles()

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line to its end; what it sets holds for the lines that follow."""
        done = subprocess.run(
            ["bash", "-c", self._script(line)],
            **self._surroundings(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS * 2,
        )
        if line.startswith((". ", "source ", "export ")):
            self.activated.append(line)
        return done

    def start(self, line: str, probes: list[str]) -> None:
        """Start a line that serves, and wait until all of ``probes`` answer."""
        log = self.folder / "serving.log"
        with log.open("wb") as output:
            command = ["bash", "-c", self._script(f"exec {line}")]
            process = subprocess.Popen(command, **self._surroundings(), stdout=output, stderr=subprocess.STDOUT)
        self.serving.append(process)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(map(_answers, probes)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)

    def stop(self) -> None:
        """Stop what serves as Ctrl-C would."""
        for process in self.serving:
            process.send_signal(signal.SIGINT)
        for process in self.serving:
            process.wait(timeout=130)
        self.serving.clear()

    def _script(self, line: str) -> str:
        return "\n".join([*self.activated, line])

    def _surroundings(self) -> dict[str, object]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        workspace = str(self.folder / "workspace")
        return {
            "cwd": self.folder,
            "env": {**inherited, "LACEWING_WORKSPACE": workspace, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            "stdin": subprocess.DEVNULL,
        }

    def _write_programs(self) -> None:
        programs = self.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "activate").write_text(f'export PATH="{programs}:$PATH"\n')
        added = {
            **dict.fromkeys(flows(), TINY),
            "up": [f"prefect_port={self.prefect}", f"mlflow_port={self.mlflow}"],
            "serve": [f"port={self.server}"],
        }
        real = shutil.which("curl")
        assert real, "the README asks with curl, which is not installed here"
        _program(
            programs / "lacewing",
            f"added = {added!r}\n"
            "given = {argument.partition('=')[0] for argument in arguments[1:]}\n"
            # A line that chooses a setting, or the group that it stands in (`model=10m`), keeps its choice.
            "chosen = lambda key: key in given or key.partition('.')[0] in given\n"
            "more = [each for each in added.get((arguments or [''])[0], []) if not chosen(each.partition('=')[0])]\n"
            f"command = [{sys.executable!r}, '-m', 'flows.cli', *arguments, *more]\n",
        )
        _program(
            programs / "curl",
            f"served = 'http://127.0.0.1:{self.server}'\n"
            "asked = [argument.replace('http://127.0.0.1:8000', served) for argument in arguments]\n"
            f"command = [{real!r}, '--fail-with-body', '--silent', '--show-error', *asked]\n",
        )

    def _write_articles(self) -> None:
        articles = self.folder / "articles"
        articles.mkdir()
        paragraphs = [part for topic in topics.values() for part in topic.split("\n\n") if len(part) > 200]
        with gzip.open(articles / "one.jsonl.gz", "wt") as file:
            file.writelines(json.dumps({"text": paragraph}) + "\n" for paragraph in paragraphs[:600])


def _program(path: Path, chooses: str) -> None:
    """An executable that becomes another: ``chooses`` makes ``command`` of ``arguments``."""
    path.write_text(
        f"#!{sys.executable}\nimport os, sys\narguments = sys.argv[1:]\n{chooses}os.execv(command[0], command)\n"
    )
    path.chmod(0o755)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


LINES = lines_of((ROOT / "README.md").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """After ``make run``, with which the README begins."""
    place = Place(tmp_path_factory.mktemp("everyday"))
    run = place.run(". .venv/bin/activate && lacewing pipeline")
    assert run.returncode == 0, run.stderr[-4000:]
    place.activated.clear()  # the README's own line has to do it
    try:
        yield place
    finally:
        place.stop()


def test_the_block_is_there() -> None:
    assert len(LINES) >= 10
    assert LINES[0] == ". .venv/bin/activate"
    assert any(line.startswith("curl ") for line in LINES)


@pytest.mark.parametrize("line", LINES)
def test_the_line_runs_as_it_is_written(place: Place, line: str) -> None:
    words = line.split()
    asks = words[0] == "curl"
    if not asks:
        place.stop()
    if words[0] == "lacewing" and words[1] in SERVERS:
        place.start(line, SERVERS[words[1]](place))
        return
    done = place.run(line)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    if asks:  # a cascade's answer says who wrote what
        (choice,) = json.loads(done.stdout)["choices"]
        assert "".join(span["text"] for span in choice["authors"]) == choice["text"]


@pytest.mark.parametrize(
    "line", ["lacewing pipelin", "lacewing pretrain trainer.max_step=3", "lacewing data pul", "lacewin --help", "."]
)
def test_a_line_that_cannot_run_is_found(place: Place, line: str) -> None:
    assert place.run(f". .venv/bin/activate; {line}").returncode != 0
