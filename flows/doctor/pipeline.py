"""The spaCy pipeline that labels real text: is there one, of a version that fits, and can it be loaded?

``python -m flows.doctor.pipeline NAME RULES`` tries it, in a process of its own: spaCy takes seconds to import.
"""

import json
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from flows.doctor.finding import Finding, fault, ok, warning

if TYPE_CHECKING:
    from conf.schema import ProjectConfig

GET_ONE = f"{sys.executable} -m spacy download en_core_web_sm, or label.pipeline=/path/to/a/pipeline"
TIMEOUT_SECONDS = 30.0


def pipeline(config: "ProjectConfig") -> Finding:
    """Whether the configured data can be labelled as they should be."""
    from components.labelling.config import CONTROLS
    from components.labelling.installed import installed_pipeline

    label = config.label
    takes_one = label.rules not in CONTROLS and label.annotator in ("auto", "spacy")
    asked = takes_one and (label.annotator == "spacy" or config.data.sources != ["world"])
    best = installed_pipeline(label.rules)
    name = label.pipeline or (best.name if best else "")
    if not name:
        return _without(asked, needed=label.annotator == "spacy")
    if problem := _wrong_version(name):
        return (fault if asked else warning)(problem, GET_ONE)
    if not asked:
        return ok(f"{name}; these settings label without it")
    return ok(f"{name} loads") if not (problem := _tried(name, label.rules)) else fault(problem, GET_ONE)


def _without(asked: bool, *, needed: bool) -> Finding:
    if needed:
        return fault("label.annotator=spacy, and no pipeline is named or installed", GET_ONE)
    if asked:
        return warning("none is installed: real text is labelled by capitals and digits alone", GET_ONE)
    return ok("none is installed, and these settings need none; real text does")


def _wrong_version(name: str) -> str:
    """What is wrong with spaCy's version for the pipeline ``name``, in words; empty if it fits or says nothing."""
    from packaging.specifiers import SpecifierSet

    installed, wanted = metadata.version("spacy"), str(_meta(name).get("spacy_version", ""))
    if SpecifierSet(wanted).contains(installed, prereleases=True):
        return ""
    return f"{name} needs spacy{wanted}, and {installed} is installed"


def _meta(name: str) -> dict[str, object]:
    spec = None if "/" in name else find_spec(name)
    path = Path(spec.origin).parent / "meta.json" if spec and spec.origin else Path(name) / "meta.json"
    try:
        content: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # whether it can be used is for spaCy to say
    return content


def _tried(name: str, rules: str) -> str:
    """Why it cannot be used, found in a new process; empty if it can."""
    command = [sys.executable, "-m", __name__, name, rules]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"{name} did not load within {TIMEOUT_SECONDS:.0f} s"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip() or f"{name} ended with code {done.returncode}").splitlines()[-1][:300]


if __name__ == "__main__":
    from components.core.errors import InputError
    from components.labelling.annotators.pipeline import Pipeline

    try:
        Pipeline(sys.argv[1], [sys.argv[2]]).check(sys.argv[2])  # type: ignore[list-item, arg-type]
    except InputError as error:
        sys.exit(" ".join(str(error).split()))
