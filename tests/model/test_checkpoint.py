import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.core.errors import ArtifactError, DiskFullError
from components.data.tokenizer import CALL, END_OF_TEXT, IM_END, SPECIAL_TOKENS
from components.model.checkpoint import load_model, save_model
from components.model.transformer import Transformer
from tests.fakes import SPECIAL
from tests.model.conftest import VOCABULARY


@pytest.fixture
def folder(model: Transformer, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model", SPECIAL)
    return tmp_path / "model"


def test_transformers_loads_the_folder_with_equal_logits(model: Transformer, folder: Path) -> None:
    from transformers import LlamaForCausalLM

    foreign, report = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokens = torch.randint(0, VOCABULARY, (3, model.config.context_length))
    with torch.no_grad():
        ours, theirs = model.logits(model(tokens)), foreign(tokens).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


def test_transformers_generates_as_we_do_and_never_calls(model: Transformer, folder: Path) -> None:
    from transformers import LlamaForCausalLM

    from components.model.generate import Sampling, generate

    call, stops = SPECIAL_TOKENS.index(CALL), [SPECIAL_TOKENS.index(name) for name in (IM_END, END_OF_TEXT)]
    foreign = LlamaForCausalLM.from_pretrained(folder)
    assert foreign.generation_config.eos_token_id == stops
    assert foreign.generation_config.suppress_tokens == [call]
    prompt = [17, 101, 33, 90]
    theirs = foreign.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
    sampling = Sampling(temperature=0, max_tokens=24, stop_ids=frozenset(stops), suppress_ids=frozenset([call]))
    assert [step.token for step in generate(model, prompt, sampling)] == theirs
    assert call not in theirs


def test_the_config_has_the_keys_of_transformers_4_and_5(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    assert values["rope_theta"] == values["rope_parameters"]["rope_theta"] == 500.0
    assert values["torch_dtype"] == values["dtype"] == "float32"
    assert values["architectures"] == ["LlamaForCausalLM"]
    assert values["head_dim"] == 8
    assert values["bos_token_id"] is None


def test_loading_gives_back_shape_and_weights(model: Transformer, folder: Path) -> None:
    loaded = load_model(folder)
    assert loaded.config == model.config
    assert loaded.vocab_size == VOCABULARY
    assert not loaded.training
    for (name, ours), (_, theirs) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert load_model(folder, dtype=torch.bfloat16).output_weight.dtype == torch.bfloat16


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _truncate_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:50])


def _empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def _drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")


def _add_tensor(folder: Path) -> None:
    save_file({**load_file(folder / "model.safetensors"), "lm_head.bias": torch.ones(3)}, folder / "model.safetensors")


def _change(key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, key: value}))

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncate, "truncated or altered"),
        (_truncate_header, "truncated or altered"),
        (_empty, "truncated or altered"),
        (_drop_weights, "has no model.safetensors"),
        (_drop_tensor, "model.norm.weight"),
        (_add_tensor, "lm_head.bias"),
        (_change("hidden_size", 96), "model.embed_tokens.weight has shape"),
        (_change("vocab_size", 130), "model.embed_tokens.weight has shape"),
        (_change("num_hidden_layers", 3), "missing"),
        (_change("model_type", "gpt2"), "model_type is 'gpt2'"),
        (_change("attention_bias", True), "attention_bias"),
        (_change("tie_word_embeddings", False), "lm_head.weight"),
        (_change("num_attention_heads", "many"), "not the config of a Llama decoder"),
        (lambda folder: (folder / "config.json").write_text("{"), "not the config of a Llama decoder"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    ],
)
def test_damaged_and_foreign_folders_are_refused_by_name(
    folder: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(folder)
    with pytest.raises(ArtifactError, match=words) as error:
        load_model(folder)
    assert str(folder) in str(error.value)


def test_loading_draws_no_weights_and_does_not_import_the_compiler(folder: Path) -> None:
    program = (
        "import sys, torch; from pathlib import Path; from components.model.checkpoint import load_model;"
        "before = torch.get_rng_state(); load_model(Path(sys.argv[1]));"
        "assert torch.equal(before, torch.get_rng_state()); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True)


def test_a_config_of_a_model_beyond_memory_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    head = 2**40
    config |= {"hidden_size": head * config["num_attention_heads"], "head_dim": head}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="does not fit into memory"):
        load_model(folder)


def test_a_full_disk_leaves_the_previous_weights(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from components.model.checkpoint import load_model, save_model\n"
        "from components.core.errors import DiskFullError\n"
        "from tests.fakes import SPECIAL\n"
        "model = load_model(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: save_model(model, Path(sys.argv[1]), SPECIAL)\n"
        "except DiskFullError as error: print(error); sys.exit(error.exit_code)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert run.returncode == DiskFullError.exit_code, run.stderr
    assert "model.safetensors" in run.stdout
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
