"""A folder of Hugging Face's Llama family: ``config.json``, safetensors in one file or in shards, ``tokenizer.json``.

Nothing is read through transformers, so no code of the folder or of the library decides what a tensor means; that the
result computes the same is tested against it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.core.errors import ArtifactError
from components.core.records import read_object
from components.data.special_tokens import END_OF_TEXT, IM_END, IM_START, TOKENIZER, TOKENIZER_CONFIG
from components.derive.given import GivenModel, StateDict
from components.model.checkpoint import GENERATION_CONFIG, WEIGHTS, first_difference, hugging_face_name, outline
from components.model.config import ModelConfig
from components.model.families.hugging_face import check_hugging_face
from components.model.llama_config import CONFIG, read_config

INDEX = f"{WEIGHTS}.index.json"
_READABLE = {"F64", "F32", "F16", "BF16"}
_INPUT, _OUTPUT = hugging_face_name("embedding.weight"), hugging_face_name("head.weight")
_RECOMPUTED = ".rotary_emb.inv_freq"  # old checkpoints hold it; transformers does not read it either


def read_folder(folder: Path, context_length: int | None = None) -> GivenModel:
    """Read the model in ``folder``, with a shorter context if one is given.

    Raises ``ArtifactError`` that names what is missing, damaged, or would be computed differently here.
    """
    config, rows = read_config(folder, context_length)
    check_hugging_face(folder)
    end, padding = _roles(folder)
    return GivenModel(config, _state(folder, config, rows), read_object(folder / TOKENIZER), end, padding)


def _state(folder: Path, config: ModelConfig, rows: int) -> StateDict:
    model = outline(config, rows)
    places = _places(folder)
    shapes, kinds = _headers(places)
    if config.tied and _OUTPUT in shapes:
        _check_tie(folder, places)
        del shapes[_OUTPUT]
    if fault := first_difference(model, shapes):
        raise ArtifactError(f"{folder}: its weights are not those that {CONFIG} describes: {fault}")
    if other := next((f"{name} is {kind}" for name, kind in kinds.items() if kind not in _READABLE), None):
        raise ArtifactError(f"{folder}: {other}, quantised: give the folder of the unquantised model")
    ours = {hugging_face_name(name): name for name, _ in model.named_parameters()}
    return {ours[name]: tensor.float() for name, tensor in _tensors(places, ours)}


def _places(folder: Path) -> dict[str, Path]:
    """The file of every tensor."""
    if (folder / WEIGHTS).is_file():
        with _opened(folder / WEIGHTS) as file:
            places = dict.fromkeys(file.keys(), folder / WEIGHTS)
    else:
        files = read_object(folder / INDEX).get("weight_map", {})
        if foreign := sorted(name for name in set(files.values()) if Path(name).name != name):
            raise ArtifactError(f"{folder / INDEX} names {foreign[0]}, which is not a file of its folder")
        if missing := sorted(name for name in set(files.values()) if not (folder / name).is_file()):
            raise ArtifactError(f"{folder} lacks {len(missing)} of its shards: {', '.join(missing)}; download them")
        places = {name: folder / file for name, file in files.items()}
    return {name: path for name, path in places.items() if not name.endswith(_RECOMPUTED)}


def _headers(places: Mapping[str, Path]) -> tuple[dict[str, torch.Size], dict[str, str]]:
    """Shape and type of every tensor."""
    shapes, kinds = {}, {}
    for path in sorted(set(places.values())):
        with _opened(path) as file:
            for name in _held(file, path, places):
                view = file.get_slice(name)
                shapes[name], kinds[name] = torch.Size(view.get_shape()), str(view.get_dtype())
    return shapes, kinds


def _tensors(places: Mapping[str, Path], wanted: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(set(places.values())):
        with _opened(path) as file:
            yield from ((name, file.get_tensor(name)) for name in _held(file, path, places) if name in wanted)


def _held(file: Any, path: Path, places: Mapping[str, Path]) -> list[str]:
    names = [name for name, place in places.items() if place == path]
    if missing := sorted(set(names) - set(file.keys())):
        raise ArtifactError(f"{path} lacks {missing[0]}, which {INDEX} looks for there")
    return names


def _check_tie(folder: Path, places: Mapping[str, Path]) -> None:
    both = dict(_tensors(places, {_INPUT: "", _OUTPUT: ""}))
    if not torch.equal(both[_INPUT], both[_OUTPUT]):
        raise ArtifactError(
            f"{folder / CONFIG} says that input and output embeddings are tied, but {_OUTPUT} is another matrix: "
            "set tie_word_embeddings to false if the output has weights of its own"
        )


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read as safetensors ({error}): truncated or altered") from error


def _roles(folder: Path) -> tuple[str, str | None]:
    """The tokens that end a text and that pad.

    ``tokenizer_config.json`` says them; where it does not, the model's configuration does by their ids. In chat models
    the end of a turn often plays both parts: then ``<|endoftext|>`` ends texts, if there is one.
    """
    path = folder / TOKENIZER_CONFIG
    said = read_object(path) if path.is_file() else {}
    named = {id: name for name, id in _vocabulary(folder).items()}
    end = _name(said.get("eos_token")) or named.get(_end_id(folder))
    if end is None:
        raise ArtifactError(f"{folder} does not say which token ends a text: eos_token in {TOKENIZER_CONFIG} does")
    if end not in named.values():
        raise ArtifactError(f"{path} says that {end!r} ends a text, but {TOKENIZER} has no such token")
    if end == IM_END and END_OF_TEXT in named.values():
        end = END_OF_TEXT
    padding = _name(said.get("pad_token"))
    taken = {end, IM_START, IM_END, _name(said.get("unk_token")), _name(said.get("bos_token"))}
    return end, padding if padding in named.values() and padding not in taken else None


def _vocabulary(folder: Path) -> dict[str, int]:
    record = read_object(folder / TOKENIZER)
    vocabulary = record.get("model", {}).get("vocab", {})
    added = {token["content"]: token["id"] for token in record.get("added_tokens") or []}
    return {**vocabulary, **added} if isinstance(vocabulary, dict) else added


def _end_id(folder: Path) -> int:
    for name in (GENERATION_CONFIG, CONFIG):
        ids = read_object(folder / name).get("eos_token_id") if (folder / name).is_file() else None
        if ids is not None and ids != []:
            return int(ids[0]) if isinstance(ids, list) else int(ids)
    return -1


def _name(token: Any) -> str | None:
    """The name of a token, which some versions of transformers write as a record of its own."""
    return token.get("content") if isinstance(token, dict) else token
