"""Files to conversations, one at a time; JSONL (compressed or not) and Parquet."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from components.core.errors import InputError
from components.data.chats.config import Layout
from components.data.chats.conversation import Conversation
from components.data.chats.layouts import read_row
from components.data.rows import Row, parsed, placed_rows
from components.data.sources import SourceFile


@dataclass
class ConversationReader:
    """Reads conversations, and counts in ``skipped`` the lines that hold none, where these may be left out."""

    layout: Layout
    may_skip: bool
    skipped: Counter[str] = field(default_factory=Counter)

    def conversations(self, files: Iterable[SourceFile]) -> Iterator[Conversation]:
        """All conversations of ``files`` in order.

        Raises ``InputError`` naming file and line, for a line without a conversation and for files that are damaged or
        of another kind.
        """
        for file in files:
            for place, row in placed_rows(file, "conversations"):
                if (found := self._read(place, row)) is not None:
                    yield found

    def _read(self, place: str, row: Row) -> Conversation | None:
        try:
            return read_row(parsed(row, place), self.layout, place)
        except InputError as error:
            if not self.may_skip:
                raise InputError(f"{error}. finetune.chat.data.on_error=skip leaves such lines out.") from error
            self.skipped["no_conversation"] += 1
            return None
