"""The artifacts of classification: labelled texts, the classifier, and its report. Light: no torch, no numpy."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from components.core.artifact import Artifact
from components.core.records import read_lines, read_record
from components.data.prepared import PreparedData
from components.finetune.classify.labelled import LabelledText
from components.finetune.classify.labels import LabelSet
from components.training.trained import TrainedModel

if TYPE_CHECKING:
    from components.data.columns import Columns


class LabelledTexts(PreparedData):
    """Texts packed into windows, a label where each ends."""

    stages = ("classify-texts",)

    COLUMNS: ClassVar = "label_column"
    LABELS: ClassVar = "labels.json"
    TEXTS: ClassVar = "texts"

    def columns(self) -> "Columns":
        """Label and number of each text at the boundary that ends it; raises ``ArtifactError`` if they are damaged."""
        from components.data.columns import Columns

        return Columns.open(self.path(self.COLUMNS), self.shards())

    def labels(self) -> LabelSet:
        """Raises ``ArtifactError`` if they are damaged."""
        return read_record(self.path(self.LABELS), LabelSet, "a set of labels")

    def labelled(self, split: str) -> list[LabelledText]:
        """The texts of a split with their labels."""
        return read_lines(self.path(self.TEXTS) / f"{split}.jsonl", LabelledText, "a labelled text")


class Classifier(TrainedModel):
    """A model with a head that tells labels; ``components.finetune.classify.predict`` uses it."""

    stages = ("classify",)

    HEAD: ClassVar = "head.safetensors"
    LABELS: ClassVar = LabelledTexts.LABELS


class Classification(Artifact):
    """How good a classifier is, and what stands beside it."""

    stages = ("classify-report",)

    PAGE: ClassVar = "report.html"
    PREDICTIONS: ClassVar = "predictions.jsonl"

    @property
    def page(self) -> Path:
        """The report as one file that can be sent."""
        return self.path(self.PAGE)
