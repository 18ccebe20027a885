"""Settings of the prepare stage."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from components.data.text_field import TextField
from components.data.world.config import WorldConfig

# Rows of the embedding are a multiple of this, so that no padded row exists that could be sampled.
VOCABULARY_MULTIPLE = 64
SMALLEST_VOCABULARY = 320  # the specials and 256 bytes, rounded up


class DataConfig(BaseModel):
    """Where the text comes from and how it becomes tokens. The default is the closed world, with no download."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    sources: list[str] = Field(default=["world"], min_length=1)
    """What to read, in order: `world` (the generated closed world), `pydoc` (Python's own manual), paths or globs of
    .txt, .md, .jsonl, .ndjson and .parquet files (text formats also as .gz or .zst), http(s) addresses of such files,
    and `hf://dataset[:config][:split]` from the Hugging Face hub."""
    text_field: str = Field(default="text", min_length=1)
    """Field of a JSONL line, or column of a Parquet file or hub data set, that holds a document's text; or a template
    of several, such as `{question}\\n{answer}`."""
    document_separator: str = "file"
    """Where documents end in text files: `file` (each file is one document, held in memory whole), `blank-line`, or any
    other text: a line that equals it separates documents."""
    on_error: Literal["fail", "skip"] = "fail"
    """Undecodable bytes, lines that are not JSON, rows without text: stop and name the place, or leave the document out
    and count it. Truncated and corrupt files always stop."""
    vocab_size: int = Field(default=2048, ge=SMALLEST_VOCABULARY, multiple_of=VOCABULARY_MULTIPLE)
    """Tokens in the vocabulary, special tokens included; a multiple of 64."""
    tokenizer_sample_mb: PositiveFloat = 16.0
    """Megabytes of training text from which the tokenizer is learned: documents chosen by hash, so that the order of
    the sources does not matter."""
    validation_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    """Share of documents, chosen by the hash of their text, that is kept for validation."""
    test_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    """Share of documents, chosen by the hash of their text, that is kept for the final assessment."""
    shard_tokens: PositiveInt = 16 * 1024 * 1024
    """Tokens per shard file (two bytes each for vocabularies up to 65,536, else four)."""
    keep_sources: bool = True
    """Keep a copy of everything that was read under raw/, so that the data version can be pushed and restored; without
    it, only the shards are kept (the closed world always is)."""
    world: WorldConfig = WorldConfig()
    """The closed world, for the source `world`."""

    @field_validator("text_field")
    @classmethod
    def _field_or_template(cls, text_field: str) -> str:
        try:
            TextField.parse(text_field)
        except ValueError as error:
            raise ValueError(f"{error}; write a field (text) or a template ({{title}}: {{body}})") from error
        return text_field

    @model_validator(mode="after")
    def _splits_leave_room(self) -> "DataConfig":
        held_out = self.validation_fraction + self.test_fraction
        if held_out > 0.5:
            raise ValueError(
                f"validation_fraction + test_fraction = {held_out:g} would hold out more than half of the documents; "
                "keep their sum at 0.5 or below"
            )
        return self
