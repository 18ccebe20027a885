"""A model as the stage ``prepare`` sees it: something that has a tokenizer. Light: no torch."""

import shutil
from pathlib import Path
from typing import ClassVar

from components.core.artifact import Artifact
from components.data.special_tokens import CHAT_TEMPLATE_FILE, TOKENIZER, TOKENIZER_CONFIG


class ModelWithTokenizer(Artifact):
    """The artifact of any stage that makes a model folder, with its tokenizer inside."""

    MODEL: ClassVar = "model"

    def copy_tokenizer(self, folder: Path) -> None:
        """Put the tokenizer into ``folder``; raises ``ArtifactError`` if a file was altered or is missing."""
        source = self.verify().path(self.MODEL)
        folder.mkdir(parents=True)
        for name in (TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE_FILE):
            shutil.copyfile(source / name, folder / name)
