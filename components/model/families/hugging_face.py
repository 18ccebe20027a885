"""A model folder of Hugging Face's Llama family, with its own tokenizer, run by the transformers library.

Offline and without foreign code: weights are safetensors, the tokenizer is ``tokenizer.json``, and the classes are
those of transformers. A folder that lacks weights is refused: transformers would draw them at random and only warn.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from tokenizers import Tokenizer

from components.core.errors import ArtifactError, InputError
from components.core.records import read_object
from components.data.special_tokens import CALL, TOKENIZER
from components.model.checkpoint import GENERATION_CONFIG, WEIGHTS
from components.model.llama_config import CONFIG

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""``model_type`` of the folders that can be read: rotary positions, RMSNorm, SwiGLU, decoder only."""

_INDEX = f"{WEIGHTS}.index.json"
_TAIL = 8  # tokens before a reply that decide how its first token is spelled


@dataclass(frozen=True)
class HuggingFaceModel:
    """A model, its tokenizer and what its folder says about both."""

    name: str
    """Of the folder."""
    model: Any
    """``transformers.PreTrainedModel`` in evaluation mode."""
    tokenizer: Tokenizer
    context_length: int
    """Tokens, the first one included."""
    start_id: int
    """In front of a text without a token: the start of a text if the model has one, otherwise its end."""
    end_ids: frozenset[int]
    """Any of these ends a text."""
    silent_ids: frozenset[int]
    """Special tokens that are no text and no end of one."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text from its beginning, at least one; a special token spelled in it is plain text."""
        ids = list(self.tokenizer.encode(text).ids)
        while ids and ids[-1] in self.end_ids:  # some tokenizers add it; the text is to go on
            ids.pop()
        return ids or [self.start_id]

    def continuation(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Text that ``ids`` add after ``before``, its leading space included.

        Many decoders strip the space of a first token, so the tokens before it are decoded as well. A character of
        which bytes are missing is U+FFFD. ``before`` ends with a whole character.
        """
        tail = list(before[-_TAIL:])
        return str(self.tokenizer.decode([*tail, *ids]))[len(self.tokenizer.decode(tail)) :]


def has_own_tokens(folder: Path) -> bool:
    """Whether the tokenizer in ``folder`` has ``<CALL>``: it is of this platform, and so is the model beside it."""
    record = _record(folder / TOKENIZER, "a tokenizer")
    return any(token.get("content") == CALL for token in record.get("added_tokens", []))


def load_hugging_face(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> HuggingFaceModel:
    """Read a folder; ``dtype`` ``None`` is fp32.

    Raises ``ArtifactError`` that names what is missing, damaged or of another kind, and ``InputError`` if the
    transformers library is not installed.
    """
    config = check_hugging_face(folder)
    tokenizer = _tokenizer(folder)
    model = _model(folder, dtype or torch.float32).to(device).eval()
    size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
    rows = model.get_input_embeddings().num_embeddings
    if size > rows:
        raise ArtifactError(
            f"{folder}: its tokenizer has {size} tokens and its model {rows}: they do not belong together"
        )
    start, ends = _boundaries(folder, config)
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return HuggingFaceModel(
        name=folder.resolve().name,
        model=model,
        tokenizer=tokenizer,
        context_length=int(config["max_position_embeddings"]),
        start_id=start,
        end_ids=ends,
        silent_ids=frozenset(special - ends) | frozenset(range(size, rows)),
    )


def empty_cache() -> Any:
    """A key-value cache of transformers that holds all it has read, whatever part of it the model still sees."""
    import transformers

    return transformers.DynamicCache()


def check_hugging_face(folder: Path) -> dict[str, Any]:
    """The folder's ``config.json``, if it is one of ``FAMILIES`` with safetensors and a tokenizer.

    Raises ``ArtifactError`` that names what is missing or of another kind.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is no folder: give one that holds {CONFIG}, {WEIGHTS} and {TOKENIZER}")
    config = _record(folder / CONFIG, "a model's configuration")
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ArtifactError(
            f"{folder} holds a model of the architecture {family!r} ({', '.join(config.get('architectures') or [])}): "
            f"only {', '.join(FAMILIES)} can be read"
        )
    if "quantization_config" in config:
        raise ArtifactError(f"{folder} holds quantised weights: give the folder of the unquantised model")
    if not isinstance(config.get("max_position_embeddings"), int):
        raise ArtifactError(f"{folder / CONFIG} does not say max_position_embeddings, the longest text in tokens")
    if not (folder / WEIGHTS).is_file() and not (folder / _INDEX).is_file():
        others = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt"))
        found = f"; {', '.join(others)} would run code when read, so convert it to safetensors" if others else ""
        raise ArtifactError(f"{folder} has no {WEIGHTS} and no {_INDEX}{found}")
    if not (folder / TOKENIZER).is_file():
        raise ArtifactError(
            f"{folder} has no {TOKENIZER}: save the model's fast tokenizer there "
            "(`AutoTokenizer.from_pretrained(...).save_pretrained(folder)`)"
        )
    return config


def _model(folder: Path, dtype: torch.dtype) -> Any:
    transformers = _library(folder)
    with _quiet(transformers):
        try:
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except Exception as error:  # whatever transformers and safetensors raise for a damaged folder
            raise ArtifactError(f"{folder} cannot be read as a model: {str(error).strip()[:300]}") from error
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if names := sorted(map(str, info.get(what) or ())):
            raise ArtifactError(
                f"{folder}: its weights are not those of the model that {CONFIG} describes: {what.split('_')[0]} "
                f"{names[0]} and {len(names) - 1} more"
            )
    return model


def _library(folder: Path) -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"{folder} needs the Hugging Face transformers library: install the extra with "
            "`pip install 'lacewing[hub]'`"
        ) from error
    return transformers  # type: ignore[no-any-return]


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Without the bars and warnings of transformers: what matters is checked here."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _tokenizer(folder: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises bare Exception
        raise ArtifactError(f"{folder / TOKENIZER} cannot be read as a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # the library's name for "encode them like any text"
    return tokenizer


def _boundaries(folder: Path, config: dict[str, Any]) -> tuple[int, frozenset[int]]:
    """Ids that start and end a text; ``generation_config.json`` has precedence, as in transformers."""
    path = folder / GENERATION_CONFIG
    said = _record(path, "a configuration of generation") if path.is_file() else {}
    ends = said.get("eos_token_id", config.get("eos_token_id"))
    start = said.get("bos_token_id", config.get("bos_token_id"))
    ids = frozenset([ends] if isinstance(ends, int) else ends or ())
    if not ids:
        raise ArtifactError(f"{folder / CONFIG} does not say eos_token_id, the token that ends a text")
    return start if start is not None else min(ids), ids


def _record(path: Path, what: str) -> dict[str, Any]:
    try:
        return read_object(path, what)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path.parent} holds no {path.name}: give the folder of a model, with {CONFIG}, {WEIGHTS} and {TOKENIZER}"
        ) from error
