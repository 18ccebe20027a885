"""Folders of Hugging Face's Llama family: equal logits for every shape; what would be loaded wrongly is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.core.errors import ArtifactError
from components.data.special_tokens import CALL, END_OF_TEXT, IM_END, IM_START, PADDING, SpecialTokens
from components.derive.llama_folder import read_folder
from components.model.checkpoint import load_model
from tests.derive.conftest import Derive
from tests.hugging_face_folders import byte_level, edit, write_folder

TOLERANCE = 1e-4
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama 2": {},
    "llama 2, a key per query": {"num_key_value_heads": 4},
    "llama 3, scaled": {"rope_parameters": LLAMA3, "tied": True},
    "linear scaling": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}},
    "smollm2": {
        "tied": True,
        "tokens": byte_level(),
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
    },
    "mistral": {"family": "mistral", "sliding_window": None},
    "mistral, wide heads": {"family": "mistral", "head_dim": 24, "sliding_window": 96},
    "narrow heads": {"head_dim": 4},
    "in shards": {"shard_size": "20KB"},
}


@pytest.mark.parametrize("name", SHAPES)
def test_logits_equal_those_of_transformers_before_and_after_export(name: str, tmp_path: Path, derive: Derive) -> None:
    from transformers import AutoModelForCausalLM

    given = write_folder(tmp_path / "given", **SHAPES[name])
    assert len(list(given.glob("*.safetensors"))) > 1 or name != "in shards"
    derived = derive(given)
    reference = AutoModelForCausalLM.from_pretrained(given, dtype=torch.float32).eval()
    exported = AutoModelForCausalLM.from_pretrained(derived.model_folder).eval()
    model = derived.load()
    old = derived.details["vocab_size"] - derived.details["added_tokens"]
    tokens = torch.randint(0, old, (2, 96), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = model.logits(model(tokens))
        theirs, again = reference(tokens).logits, exported(tokens).logits
    assert (ours[..., :old] - theirs[..., :old]).abs().max() < TOLERANCE
    assert (ours - again).abs().max() < TOLERANCE
    assert theirs.std() > 0.1, "logits that are all alike show nothing"


def test_half_precision_is_read_as_it_is(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "given")
    weights = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    state = read_folder(folder).state
    assert state["norm.weight"].dtype == torch.float32
    assert torch.equal(state["embedding.weight"], weights["model.embed_tokens.weight"].float())


def test_the_keys_of_transformers_4_mean_the_same(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "given", rope_parameters=LLAMA3)
    new = read_folder(folder).config
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    (folder / "config.json").write_text(json.dumps({**config, "rope_scaling": rope}))
    assert read_folder(folder).config == new
    (folder / "config.json").write_text(json.dumps({**config, "rope_scaling": {"type": "linear", "factor": 2}}))
    assert read_folder(folder).config.rope_scaling.kind == "linear"


def test_a_shorter_context_may_make_a_sliding_window_harmless(tmp_path: Path, derive: Derive) -> None:
    from transformers import AutoModelForCausalLM

    folder = write_folder(tmp_path / "given", family="mistral", sliding_window=48, rope_parameters=LLAMA3)
    with pytest.raises(
        ArtifactError, match=r"sliding_window is 48.* a context_length of 48 or less is computed exactly"
    ):
        read_folder(folder)
    with pytest.raises(ArtifactError, match="context_length is 97, but the model reads 96"):
        read_folder(folder, 97)
    model = derive(folder, context_length=40).load()
    assert model.config.context_length == 40
    tokens = torch.randint(0, 400, (1, 40))
    with torch.inference_mode():
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval()(tokens).logits[..., :420]
        assert (model.logits(model(tokens))[..., :420] - theirs).abs().max() < TOLERANCE


def test_the_reserved_tokens_come_behind_the_old_ones_and_play_their_parts(tmp_path: Path, derive: Derive) -> None:
    derived = derive(write_folder(tmp_path / "given"))
    special = SpecialTokens.read(derived.model_folder)
    assert special.name(special.end_of_text) == "</s>"
    assert [special.ids[name] for name in (PADDING, IM_START, IM_END, CALL)] == [420, 421, 422, 423]
    assert derived.details["added_tokens"] == 4
    assert load_model(derived.model_folder).vocab_size == 424


def test_tokens_that_the_model_has_already_are_not_added_again(tmp_path: Path, derive: Derive) -> None:
    tokens = byte_level()
    tokens.add_special_tokens([END_OF_TEXT, IM_START, IM_END])
    folder = write_folder(tmp_path / "given", tokens=tokens)
    # As in a chat model: the end of a turn ends the text, and pads.
    config = {"eos_token": {"content": IM_END}, "pad_token": IM_END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    derived = derive(folder)
    special = SpecialTokens.read(derived.model_folder)
    assert special.name(special.end_of_text) == END_OF_TEXT
    assert special.name(special.padding) == PADDING
    assert len({special.end_of_text, special.padding, special.im_start, special.im_end, special.call}) == 5
    assert derived.details["added_tokens"] == 2


def test_a_model_of_ours_comes_back_unchanged(tmp_path: Path, derive: Derive) -> None:
    first = derive(write_folder(tmp_path / "given")).folder.rename(tmp_path / "first") / "model"
    second = derive(first)
    assert second.details["added_tokens"] == 0
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"):
        assert (second.model_folder / name).read_bytes() == (first / name).read_bytes(), name


def _change(**values: object) -> Callable[[Path], object]:
    return lambda folder: edit(folder, **values)


def _edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def edited(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return edited


def _with_index(**places: str) -> Callable[[Path], object]:
    def indexed(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    return indexed


def _only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-200])


def _end_with(token: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))


def _not_finite(weights: dict[str, torch.Tensor]) -> None:
    weights["model.norm.weight"][0] = float("nan")


_ATTENTION = "model.layers.0.self_attn"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another architecture": (_change(model_type="gpt2"), "model_type is 'gpt2', but only llama and mistral"),
    "attention bias": (_change(attention_bias=True), "attention_bias is True, but .* no biases"),
    "attention bias in the weights": (
        _edit_weights(lambda weights: weights.update({f"{_ATTENTION}.q_proj.bias": torch.ones(32)})),
        "1 tensors are unknown, among them .*q_proj.bias",
    ),
    "feed-forward bias": (_change(mlp_bias=True), "mlp_bias is True"),
    "qk-norm": (_change(use_qk_norm=True), "use_qk_norm is True, but queries and keys are not normalised"),
    "qk-norm in the weights": (
        _edit_weights(lambda weights: weights.update({f"{_ATTENTION}.q_norm.weight": torch.ones(8)})),
        "1 tensors are unknown, among them .*q_norm",
    ),
    "a sliding window": (_change(sliding_window=8), "sliding_window is 8, shorter than the context of 96"),
    "layers with a window": (_change(layer_types=["sliding_attention"]), "layer_types has sliding_attention"),
    "another activation": (_change(hidden_act="gelu"), "hidden_act is 'gelu', but the feed-forward is SwiGLU"),
    "quantised": (_change(quantization_config={"bits": 4}), "quantization_config is given, but .* unquantised"),
    "quantised in the weights": (
        _edit_weights(lambda weights: weights.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)})),
        "model.norm.weight is I8, quantised",
    ),
    "unknown RoPE scaling": (
        _change(rope_scaling={"rope_type": "yarn", "factor": 4.0}),
        "of the kind 'yarn', but only default, linear and llama3",
    ),
    "RoPE by layer": (_change(rope_parameters={"full_attention": {}}), "differ by the kind of layer"),
    "RoPE scaling without a factor": (_change(rope_scaling={"type": "linear"}), "does not say factor"),
    "partial rotary": (_change(partial_rotary_factor=0.5), "partial_rotary_factor is 0.5"),
    "partial rotary in its parameters": (
        _change(rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
        "partial_rotary_factor is 0.5",
    ),
    "logit scaling": (_change(logits_scaling=8.0), "logits_scaling is 8.0, but logits are not scaled"),
    "a soft cap": (_change(final_logit_softcapping=30.0), "no soft cap"),
    "another width": (_change(intermediate_size=50), r"has shape \[48, 32\], expected \[50, 32\]"),
    "fewer layers": (_change(num_hidden_layers=1), "9 tensors are unknown"),
    "another vocabulary": (_change(vocab_size=300), r"has shape \[424, 32\], expected \[300, 32\]"),
    "untied by name only": (_change(tie_word_embeddings=True), "lm_head.weight is another matrix"),
    "pickled weights only": (_only_pickle, "pytorch_model.bin would run code when read"),
    "a missing shard": (
        _with_index(norm="model-00002-of-00002.safetensors"),
        "lacks 1 of its shards: model-00002-of-00002.safetensors",
    ),
    "a shard elsewhere": (_with_index(norm="../model.safetensors"), "which is not a file of its folder"),
    "truncated weights": (_truncate, "truncated or altered"),
    "values that are no numbers": (_edit_weights(_not_finite), "norm.weight has values that are no finite numbers"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "no end of text": (_change(eos_token_id=None), "does not say which token ends a text"),
    "an end of text that is no token": (
        _end_with("<end>"),
        "'<end>' ends a text, but tokenizer.json has no such token",
    ),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("folders") / "given")
    (folder / "generation_config.json").unlink()
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_loaded_wrongly_is_refused_by_name(
    name: str, given: Path, tmp_path: Path, derive: Derive
) -> None:
    folder = Path(shutil.copytree(given, tmp_path / "given"))
    spoil, words = REFUSED[name]
    spoil(folder)
    with pytest.raises(ArtifactError, match=words) as error:
        derive(folder)
    assert str(folder) in str(error.value)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path, derive: Derive) -> None:
    folder = write_folder(tmp_path / "given", vocab_size=400)
    with pytest.raises(ArtifactError, match="its tokenizer has 420 tokens and its model 400"):
        derive(folder)
