"""Folders of Hugging Face's Llama family: what is read is what transformers would use, and the rest is refused."""

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.core.errors import ArtifactError, InputError
from components.data.tokenizer import save_tokenizer
from components.model.families.hugging_face import FAMILIES, has_own_tokens, load_hugging_face
from tests.fakes import SENTENCES, tokenizer
from tests.hugging_face_folders import byte_level, edit, sentencepiece_like, write_folder

TEXTS = [*SENTENCES, "", " ", "日本", "two  spaces\nand a line"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read_and_predicts_what_transformers_predicts(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    write_folder(tmp_path, family, tied=family == "llama")
    found = load_hugging_face(tmp_path)
    ids = torch.tensor([found.encode(SENTENCES[0])])
    reference = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        torch.testing.assert_close(found.model(ids).logits, reference(ids).logits)
    assert found.context_length == 96
    assert found.name == tmp_path.name
    assert not found.model.training
    assert found.model.dtype == torch.float32


@pytest.mark.parametrize("make", [sentencepiece_like, byte_level])
def test_a_text_is_encoded_as_transformers_does_and_its_continuation_keeps_its_space(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    tokens = make()
    found = load_hugging_face(write_folder(tmp_path, tokens=tokens))
    reference = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        assert found.encode(text) == (reference(text)["input_ids"] or [found.start_id])
    ids = found.encode(SENTENCES[0])
    for cut in range(1, len(ids)):
        before, after = ids[:cut], ids[cut:]
        text = found.continuation([], before)
        if not text.endswith("\ufffd"):
            assert text + found.continuation(before, after) == SENTENCES[0]


def test_a_special_token_that_is_spelled_in_a_text_is_plain_text(tmp_path: Path) -> None:
    found = load_hugging_face(write_folder(tmp_path, "qwen2"))
    tool = found.tokenizer.token_to_id("<|tool|>")
    assert tool in found.silent_ids
    assert tool not in found.encode("He wrote <|tool|> there.")
    assert found.end_ids == {found.tokenizer.token_to_id("<|end|>")}
    assert found.start_id in found.end_ids  # it has no token for the start
    # Rows of the embedding that belong to no token are never written.
    assert found.tokenizer.get_vocab_size() in found.silent_ids


def test_the_configuration_of_generation_says_what_ends_a_text(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 5], "bos_token_id": 1}')
    assert load_hugging_face(tmp_path).end_ids == {2, 5}


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _other_tokenizer(folder: Path) -> None:
    bigger = byte_level()
    bigger.add_tokens([f"word{number}" for number in range(500)])
    bigger.save(str(folder / "tokenizer.json"))


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "another architecture": (lambda folder: edit(folder, model_type="gpt2"), "architecture 'gpt2'.*llama, mistral"),
    "no architecture": (lambda folder: edit(folder, model_type=None), "architecture None"),
    "no tokenizer": (_without("tokenizer.json"), r"has no tokenizer\.json: save the model's fast tokenizer"),
    "no configuration": (_without("config.json"), r"holds no config\.json"),
    "no weights": (_without("model.safetensors"), r"has no model\.safetensors"),
    "pickled weights": (_pickled, r"pytorch_model\.bin would run code"),
    "truncated weights": (_truncated, "cannot be read as a model"),
    "quantised weights": (lambda folder: edit(folder, quantization_config={}), "quantised"),
    "a layer more than there are weights": (lambda folder: edit(folder, num_hidden_layers=3), r"missing model\.layers"),
    "a layer less": (lambda folder: edit(folder, num_hidden_layers=1), r"unexpected model\.layers"),
    "another shape": (lambda folder: edit(folder, intermediate_size=40), "weights|model"),
    "the tokenizer of another model": (_other_tokenizer, "do not belong together"),
    "a damaged tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be read as a token"),
    "damaged configuration": (lambda folder: (folder / "config.json").write_text("[]"), "no JSON object"),
    "no end of a text": (lambda folder: edit(folder, eos_token_id=None), "eos_token_id"),
    "no context": (lambda folder: edit(folder, max_position_embeddings=None), "max_position_embeddings"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_cannot_be_used_is_refused_by_name(fault: str, tmp_path: Path) -> None:
    spoil, message = FAULTS[fault]
    write_folder(tmp_path)
    if fault == "no end of a text":
        (tmp_path / "generation_config.json").unlink()
    spoil(tmp_path)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_hugging_face(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is no folder"):
        load_hugging_face(tmp_path / "nowhere")


def test_code_beside_the_weights_is_never_run(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "modeling_evil.py").write_text("raise SystemExit('ran')")
    edit(tmp_path, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Config"})
    assert type(load_hugging_face(tmp_path).model).__name__ == "LlamaForCausalLM"


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"lacewing\[hub\]"):
        load_hugging_face(tmp_path)


def test_folders_of_this_platform_are_told_apart_by_their_tokens(tmp_path: Path) -> None:
    save_tokenizer(tokenizer()._tokenizer, tmp_path / "ours")
    assert has_own_tokens(tmp_path / "ours")
    assert not has_own_tokens(write_folder(tmp_path / "theirs"))
