"""Stages for the tests of the worker: each shows one way in which a stage may end."""

import os
import signal
import time

from pydantic import BaseModel, ConfigDict

from components.core.artifact import Artifact
from components.core.errors import InputError
from components.core.run import Run


class ProbeConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    end: str = "well"
    text: str = "hello"


class Probe(Artifact):
    """What the stage below leaves."""

    stages = ("probe",)

    def text(self) -> str:
        return self.path("text.txt").read_text()


def stage(run: Run, cfg: ProbeConfig, *, earlier: Probe | None = None, **others: Artifact) -> Probe:
    run.log({"loss": 2.0}, 1)
    run.report(0.5, "half way")
    match cfg.end:
        case "input error":
            raise InputError("the corpus is empty")
        case "bug":
            raise ZeroDivisionError("one over none")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "killed once":
            mark = run.folder / "checkpoints" / "mark"
            if not mark.exists():
                mark.parent.mkdir()
                mark.write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
        case "sleeps":
            time.sleep(60)
    read = [] if earlier is None else [earlier.text()]
    (run.folder / "text.txt").write_text("".join([cfg.text, *read, *others]))
    metrics = {"letters": float(len(cfg.text))}
    return run.seal(metrics, {"text": cfg.text}, [("Letters", str(len(cfg.text)))], view=Probe)
