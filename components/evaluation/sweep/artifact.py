"""The artifact of a sweep. Light: no torch, no numpy."""

from pathlib import Path
from typing import ClassVar

from components.core.artifact import Artifact


class Sweep(Artifact):
    """The trials of a sweep side by side."""

    stages = ("sweep",)

    PAGE: ClassVar = "report.html"

    @property
    def page(self) -> Path:
        """The report as one file that can be sent."""
        return self.path(self.PAGE)
