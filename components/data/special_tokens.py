"""The special tokens of a tokenizer by the part they play, read from its record and never from their positions.

``tokenizer.json`` says which added tokens are special and what their ids are. ``tokenizer_config.json`` says which of
them ends a text (``eos_token``) and which one pads (``pad_token``). The others are known by their names.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.errors import ArtifactError

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
CALL = "<CALL>"
TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE_FILE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"

OWN_ROLES: Mapping[str, str] = {"eos_token": END_OF_TEXT, "pad_token": PADDING}
"""Who plays which part in the tokenizers that this platform learns."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that are no text."""

    ids: Mapping[str, int]
    """Every special token by its name, in the order of ids; also those that play no part here."""
    end_of_text: int
    """Follows every document."""
    padding: int
    im_start: int
    """Opens a turn of a conversation."""
    im_end: int
    """Ends a turn."""
    call: int
    """Asks for help."""

    @classmethod
    def of(cls, ids: Mapping[str, int], roles: Mapping[str, Any], source: object = "the tokenizer") -> "SpecialTokens":
        """Find each part among the special tokens ``ids``.

        Arguments:
            roles: ``eos_token`` and ``pad_token`` as in ``tokenizer_config.json``.
            source: where the tokens are from, for errors.

        Raises ``ArtifactError`` that names every missing part.
        """
        parts = {
            "eos_token in tokenizer_config.json": _name(roles.get("eos_token")),
            "pad_token in tokenizer_config.json": _name(roles.get("pad_token")),
            IM_START: IM_START,
            IM_END: IM_END,
            CALL: CALL,
        }
        missing = [
            part if name in (None, part) else f"{part}, {name}" for part, name in parts.items() if name not in ids
        ]
        if missing:
            raise ArtifactError(
                f"{source} cannot be used: it has no special token for {'; '.join(missing)}. Add the token to the "
                "tokenizer as a special one (and to the model's vocabulary), and say in tokenizer_config.json which "
                f"token is eos_token and which pad_token. It has {sorted(ids, key=lambda name: ids[name])}"
            )
        ordered = dict(sorted(ids.items(), key=lambda pair: pair[1]))
        return cls(ordered, *(ids[name] for name in parts.values() if name is not None))

    @classmethod
    def read(cls, folder: Path) -> "SpecialTokens":
        """Those of the tokenizer saved in ``folder``; raises ``ArtifactError`` for files that do not say them."""
        record = read_record(folder / TOKENIZER)
        ids = {token["content"]: int(token["id"]) for token in record.get("added_tokens", []) if token["special"]}
        return cls.of(ids, read_record(folder / TOKENIZER_CONFIG), folder / TOKENIZER)

    @property
    def never_written(self) -> frozenset[int]:
        """Those to suppress where only text is wanted: all but the end of it."""
        return frozenset(self.ids.values()) - {self.end_of_text}

    def name(self, id: int) -> str | None:
        """How the special token ``id`` is spelled; ``None`` for a token of text."""
        return next((name for name, known in self.ids.items() if known == id), None)


def _name(token: Any) -> str | None:
    """The name of a token, which some versions of transformers write as a record of its own."""
    return token.get("content") if isinstance(token, dict) else token


def read_record(path: Path) -> dict[str, Any]:
    """A file of a tokenizer; raises ``ArtifactError`` if it is missing or damaged."""
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path.parent} holds no {path.name}; give the tokenizer folder of a prepare artifact"
        ) from error
    except ValueError as error:
        raise ArtifactError(f"{path} cannot be read as a tokenizer: {error}") from error
    return record
