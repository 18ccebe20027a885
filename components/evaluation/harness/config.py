"""Settings of the harness. Imports nothing heavy: the flow's process reads them."""

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt


class HarnessConfig(BaseModel):
    """Published tasks, run by lm-evaluation-harness 0.4.13 over local files."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    data: str = ""
    """Folder with the data of the tasks, a folder for each (`blimp/blimp.jsonl.gz`); the guide lists the files."""
    tasks: str = ""
    """Folder with task files of your own, in lm-eval's format. Its names win over those of the platform."""
    include_defaults: bool = False
    """Also take lm-eval's own tasks, which fetch their data from the Hugging Face Hub. Their names then win over those
    of the platform. Finding them takes about 11 s."""
    limit: NonNegativeInt = 0
    """At most this many examples of each task (of each paradigm, subject or relation), by a fixed shuffle; 0: all."""
    num_fewshot: NonNegativeInt | None = None
    """Solved examples before each question; unset: as many as the task file says."""
    piece_examples: PositiveInt = 1_000
    """Examples that are made together. A killed evaluation goes on after the last finished piece."""
