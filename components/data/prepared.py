"""The artifact of the stage ``prepare``: sources, tokenizer and token shards."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from components.core.artifact import Artifact
from components.data.world.files import DOCUMENTS, FACTS, QUESTIONS, WORLD_FOLDER

if TYPE_CHECKING:
    from components.data.shards import ShardSet
    from components.data.tokenizer import TextTokenizer


class PreparedData(Artifact):
    """Text that a model can be trained on."""

    stages: ClassVar[tuple[str, ...]] = ("prepare", "chats")

    RAW: ClassVar = "raw"
    TOKENIZER: ClassVar = "tokenizer"
    SHARDS: ClassVar = "shards"

    @property
    def tokenizer_folder(self) -> Path:
        return self.path(self.TOKENIZER)

    def tokenizer(self) -> "TextTokenizer":
        """Raises ``ArtifactError`` if it is missing or damaged."""
        from components.data.tokenizer import TextTokenizer

        return TextTokenizer.load(self.tokenizer_folder)

    def tokenizer_digest(self) -> str:
        """Identity of the tokenizer: models and labels that have it speak of the same tokens."""
        from components.data.tokenizer import tokenizer_digest

        return tokenizer_digest(self.tokenizer_folder)

    @property
    def shards_folder(self) -> Path:
        return self.path(self.SHARDS)

    def shards(self) -> "ShardSet":
        """Raises ``ArtifactError`` if a file is missing or has another size than the index says."""
        from components.data.shards import ShardSet

        return ShardSet.open(self.shards_folder)

    def texts(self, split: str, numbers: Iterable[int]) -> Iterator[str]:
        """The documents ``numbers`` of ``split`` as text."""
        documents, tokenizer = self.shards().splits[split], self.tokenizer()
        for number in numbers:
            yield tokenizer.decode(documents.document(number).tolist())

    @property
    def fact_table(self) -> Path | None:
        """The closed world's facts; ``None`` for other data."""
        return self._of_world(FACTS)

    @property
    def world_documents(self) -> Path | None:
        """The closed world's documents, with the places of their facts; ``None`` for other data."""
        return self._of_world(DOCUMENTS)

    @property
    def questions(self) -> Path | None:
        """The closed world's questions; ``None`` for other data."""
        return self._of_world(QUESTIONS)

    def _of_world(self, name: str) -> Path | None:
        path = self.folder / self.RAW / WORLD_FOLDER / name
        return path if path.is_file() else None
