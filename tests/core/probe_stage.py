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


def stage(run: Run, cfg: ProbeConfig, *inputs: Artifact) -> Artifact:
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
    (run.folder / "text.txt").write_text(cfg.text + "".join(artifact.key for artifact in inputs))
    return run.seal(metrics={"letters": float(len(cfg.text))}, details={"text": cfg.text})
