"""The artifact of the stage ``label``: one bit for each token of the shards."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from components.core.artifact import Artifact
from components.data.prepared import PreparedData

if TYPE_CHECKING:
    from components.labelling.labels import FactBits


class Labels(Artifact):
    """Which tokens state facts."""

    stages = ("label",)

    FACTS: ClassVar = "facts"
    JUDGED: ClassVar = "judged"
    AGREEMENT: ClassVar = "annotator_agreement.json"
    AGREEMENT_PAGE: ClassVar = "annotator_agreement.md"

    def facts(self, prepared: PreparedData) -> "FactBits":
        """The factual tokens of ``prepared``; raises ``ArtifactError`` if the bits are damaged or of other tokens."""
        return self._bits(self.path(self.FACTS), prepared)

    def judged(self, prepared: PreparedData) -> "FactBits | None":
        """Values alone, without the names of subjects, as a judge labels them; only the closed world has them."""
        folder = self.folder / self.JUDGED
        return self._bits(folder, prepared) if folder.is_dir() else None

    @property
    def agreement(self) -> Path:
        """How well the annotators agree, as JSON."""
        return self.path(self.AGREEMENT)

    @property
    def agreement_page(self) -> Path:
        """The same for people."""
        return self.path(self.AGREEMENT_PAGE)

    def _bits(self, folder: Path, prepared: PreparedData) -> "FactBits":
        from components.labelling.labels import FactBits

        return FactBits.open(folder, prepared.shards(), prepared.tokenizer_digest())
