"""Adapters on our decoder: what is trained, that merging changes nothing, and files that PEFT and we read alike."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.core.errors import ArtifactError, InputError
from components.model.adapters.adapter import Adapter, adapted, weights_digest
from components.model.adapters.config import AdapterConfig, Kind
from components.model.adapters.files import (
    BASE,
    CONFIG,
    PICKLED,
    QUANTISED,
    WEIGHTS,
    read_adapter,
    read_unmerged,
    write_adapter,
)
from components.model.adapters.loftq import NF4, loftq, nf4
from components.model.checkpoint import load_model, save_model
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from tests.fakes import SPECIAL
from tests.model.conftest import VOCABULARY

KINDS: list[Kind] = ["lora", "rslora", "dora", "pissa", "ia3", "loftq"]
SHAPE = ModelConfig(name="tiny", layers=2, width=48, hidden_width=80, heads=6, kv_heads=2, context_length=32)
UNTIED = SHAPE.model_copy(update={"tied": False})
CASES = [
    *((kind, True, SHAPE) for kind in KINDS),
    *((kind, rows, shape) for kind in ("lora", "ia3") for rows, shape in ((False, SHAPE), (True, UNTIED))),
]


def fresh(seed: int = 0, shape: ModelConfig = SHAPE) -> Transformer:
    """Weights far from their start."""
    torch.manual_seed(seed)
    model = Transformer(shape, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.5, 1.5) if parameter.ndim == 1 else parameter.normal_(std=0.2)
    return model


def put_on(model: Transformer, **settings: object) -> Adapter:
    adapter = adapted(model, AdapterConfig.model_validate(settings), SPECIAL)
    assert adapter is not None
    return adapter


def train(model: Transformer, steps: int = 3) -> None:
    """Move every weight that is not frozen."""
    torch.manual_seed(1)
    for _ in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.03)


TOKENS = torch.arange(60).reshape(2, 30) * 7 % VOCABULARY


def logits(model: Transformer) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model.logits(model(TOKENS))


def assert_equal_logits(first: Tensor, second: Tensor, relative: float = 1e-5) -> None:
    assert (first - second).abs().max() <= relative * first.abs().max()


FOREIGN = 3e-5
"""Relative, between our decoder and that of transformers, whose sums have another order."""


@given(
    kind=st.sampled_from(KINDS),
    rank=st.integers(1, 16),
    alpha=st.floats(0.5, 32),
    targets=st.lists(st.sampled_from(["attention", "feed_forward", "all", "query", "down", "up"]), min_size=1),
    special_rows=st.booleans(),
    shape=st.sampled_from([SHAPE, UNTIED]),
)
@settings(max_examples=12, deadline=None)
def test_merging_leaves_the_logits_as_they_were(
    kind: Kind, rank: int, alpha: float, targets: list[str], special_rows: bool, shape: ModelConfig
) -> None:
    model = fresh(shape=shape)
    before = logits(model)
    names = [name for name, _ in model.named_parameters()]
    adapter = put_on(model, kind=kind, rank=rank, alpha=alpha, targets=targets, special_rows=special_rows)
    train(model)
    trained = logits(model)
    adapter.merge()
    assert_equal_logits(trained, logits(model))
    assert not torch.equal(before, trained)
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == names


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "pissa", "ia3"])
def test_a_new_adapter_changes_nothing(kind: Kind) -> None:
    model = fresh()
    before = logits(model)
    put_on(model, kind=kind)
    assert_equal_logits(before, logits(model))


def test_loftq_starts_nearer_than_its_quantised_base() -> None:
    weight = fresh().blocks[0].feed_forward.up.weight.detach()
    start = loftq(weight, rank=8, iterations=5)
    lost = (weight - nf4(weight)).norm()
    assert (weight - start.quantised - start.left @ start.right).norm() < 0.9 * lost
    assert torch.equal(nf4(start.quantised), start.quantised)


def test_nf4_keeps_what_it_can_hold_and_rounds_the_rest_to_the_nearest() -> None:
    values = torch.tensor(NF4)
    row = torch.cat((3 * values, torch.zeros(64 - 16), 0.5 * values[[0, 15]]))[None]
    assert torch.equal(nf4(row), row)
    random = torch.randn(5, 100)
    blocks = [random[:, :64], random[:, 64:]]
    scales = [block.abs().amax(dim=1, keepdim=True) for block in blocks]
    nearest = [
        values[(block[..., None] / scale[..., None] - values).abs().argmin(-1)] * scale
        for block, scale in zip(blocks, scales, strict=True)
    ]
    torch.testing.assert_close(nf4(random), torch.cat(nearest, dim=1))
    assert torch.equal(nf4(torch.zeros(2, 70)), torch.zeros(2, 70))


def test_only_the_adapter_and_the_special_rows_are_trained() -> None:
    model = fresh()
    frozen = {name: weight.clone() for name, weight in model.named_parameters()}
    adapter = put_on(model, kind="lora", rank=2, targets=["attention"])
    hidden = model(TOKENS)
    model.logits(hidden).logsumexp(-1).sum().backward()
    with_gradient = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert with_gradient == {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(with_gradient) == 2 * 4 * 2 + 1
    train(model)
    adapter.merge()
    for name, weight in model.named_parameters():
        moved = (weight != frozen[name]).flatten(1).any(1) if weight.ndim > 1 else weight != frozen[name]
        if name == "embedding.weight":
            assert moved.nonzero().flatten().tolist() == sorted(SPECIAL.ids.values())
        else:
            assert bool(moved.any()) == ("attention." in name), name


def test_dropout_works_in_training_and_not_after_reading(tmp_path: Path) -> None:
    model = fresh()
    adapter = put_on(model, kind="lora", dropout=0.5)
    train(model)
    model.train()
    assert not torch.equal(model(TOKENS), model(TOKENS))
    write_adapter(adapter, tmp_path, SPECIAL)
    again = fresh()
    read_adapter(again, tmp_path)
    assert torch.equal(again(TOKENS), again(TOKENS))


def test_kind_none_leaves_the_model_alone() -> None:
    model = fresh()
    assert adapted(model, AdapterConfig(), SPECIAL) is None
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize(("kind", "special_rows", "shape"), CASES)
def test_peft_loads_the_adapter_on_the_exported_model(
    kind: Kind, special_rows: bool, shape: ModelConfig, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = fresh(shape=shape)
    save_model(model, tmp_path / "model", SPECIAL)
    adapter = put_on(model, kind=kind, rank=3, special_rows=special_rows)
    train(model)
    folder = tmp_path / "adapter"
    write_adapter(adapter, folder, SPECIAL)
    exported = folder / QUANTISED if kind == "loftq" else tmp_path / "model"
    foreign = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(exported), folder).eval()
    with torch.no_grad():
        theirs = foreign(TOKENS).logits
    assert_equal_logits(logits(model), theirs, FOREIGN)
    merged = foreign.merge_and_unload()
    with torch.no_grad():
        assert_equal_logits(theirs, merged(TOKENS).logits, FOREIGN)


@pytest.mark.parametrize(("kind", "special_rows", "shape"), CASES)
def test_an_adapter_is_read_back(kind: Kind, special_rows: bool, shape: ModelConfig, tmp_path: Path) -> None:
    model = fresh(shape=shape)
    adapter = put_on(model, kind=kind, rank=12, alpha=3.5, targets=["key", "down"], special_rows=special_rows)
    train(model)
    write_adapter(adapter, tmp_path, SPECIAL)
    again = load_model(tmp_path / QUANTISED) if kind == "loftq" else fresh(shape=shape)
    base = weights_digest(again.state_dict())
    read = read_adapter(again, tmp_path)
    assert read.base == adapter.base == base
    assert_equal_logits(logits(model), logits(again))
    write_adapter(read, tmp_path / "second", SPECIAL)
    for name in (CONFIG, WEIGHTS, BASE):
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_an_adapter_that_peft_trained_is_read(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = fresh()
    save_model(model, tmp_path / "model", SPECIAL)
    wanted = LoraConfig(
        r=2, target_modules=["q_proj", "down_proj"], trainable_token_indices=[3, 1], task_type="CAUSAL_LM"
    )
    foreign = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), wanted)
    train(foreign)
    foreign.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ArtifactError, match=r"no base\.json") as error:
        read_adapter(model, tmp_path / "adapter")
    digest = weights_digest(model.state_dict())
    assert f'{{"weights": "{digest}"}}' in str(error.value)
    (tmp_path / "adapter" / BASE).write_text(json.dumps({"weights": digest}))
    _change("target_modules", ["q_proj", "down_proj"])(tmp_path / "adapter")  # PEFT's own order is that of a set
    read_adapter(model, tmp_path / "adapter")
    with torch.no_grad():
        assert_equal_logits(foreign.eval()(TOKENS).logits, logits(model), FOREIGN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = fresh()
    adapter = put_on(model, kind="lora", rank=2)
    train(model)
    write_adapter(adapter, tmp_path / "adapter", SPECIAL)
    return tmp_path / "adapter"


def test_an_adapter_for_another_base_is_refused_by_both_names(folder: Path) -> None:
    other = fresh(seed=5)
    before = logits(other)
    with pytest.raises(ArtifactError, match="belongs to tiny with the weights") as error:
        read_adapter(other, folder)
    for digest in (weights_digest(fresh().state_dict()), weights_digest(other.state_dict())):
        assert digest[:16] in str(error.value)
    assert torch.equal(before, logits(other))


def test_loftqs_adapter_names_its_quantised_base(tmp_path: Path) -> None:
    model = fresh()
    write_adapter(put_on(model, kind="loftq"), tmp_path, SPECIAL)
    with pytest.raises(ArtifactError, match=f"quantised base is {tmp_path / QUANTISED}"):
        read_adapter(fresh(), tmp_path)


def _change(key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        record = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**record, key: value}))

    return change


def _pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / PICKLED)


def _truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_pickle, "adapter_model.bin would run code when read"),
        (_truncate, "truncated or altered"),
        (lambda folder: (folder / WEIGHTS).unlink(), "not an adapter, or an unfinished one"),
        (lambda folder: (folder / CONFIG).unlink(), "has no adapter_config.json"),
        (lambda folder: (folder / CONFIG).write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / BASE).write_text("[]"), "holds no JSON object"),
        (_change("r", 3), r"lora_A.weight has shape \[2, 48\], expected \[3, 48\]"),
        (_change("r", 0), "greater than 0"),
        (_change("target_modules", ["q_proj"]), "tensors are unknown"),
        (_change("target_modules", ["q_proj", "lm_head"]), "lm_head"),
        (_change("target_modules", "all-linear"), "describes no adapter that can be read"),
        (_change("trainable_token_indices", [1]), "expected"),
        (_change("trainable_token_indices", [1, 999]), r"the rows \[999\] of a vocabulary of 131"),
        (_change("peft_type", "LOHA"), "peft_type is 'LOHA'"),
        (_change("alpha_pattern", {"q_proj": 3}), "sets alpha_pattern"),
        (_change("bias", "all"), "sets bias"),
    ],
)
def test_damaged_and_foreign_adapters_are_refused_by_name(
    folder: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(folder)
    model = fresh()
    before = logits(model)
    for read in (read_adapter, read_unmerged):
        with pytest.raises(ArtifactError, match=words):
            read(model, folder)
    assert torch.equal(before, logits(model))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1e6])
def test_numbers_that_would_reach_the_texts_of_others_are_refused(folder: Path, number: float) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = next(name for name in tensors if name.endswith("up_proj.lora_B.weight"))
    tensors[name][0, 0] = number
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ArtifactError, match=f"{name} holds numbers that are not below 1e\\+06"):
        read_unmerged(fresh(), folder)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"targets": ["q_proj"]}, "'all', 'attention', 'feed_forward'"),
        ({"targets": []}, "at least 1 item"),
        ({"rank": 0}, "greater than 0"),
        ({"kind": "ia3", "dropout": 0.1}, "ia3 has none"),
        ({"kind": "adalora"}, "'none', 'lora'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AdapterConfig.model_validate(settings)


def test_a_rank_beyond_the_matrix_is_refused() -> None:
    with pytest.raises(InputError, match="rank=17 is more than the matrix key has, which is 16 x 48: take at most 16"):
        put_on(fresh(), kind="lora", rank=17)


def test_without_peft_an_adapter_is_read_apart_and_else_the_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    assert len(read_unmerged(fresh(), folder).changes) == 2 * 7
    with pytest.raises(InputError, match=r"pip install 'lacewing\[peft\]'"):
        put_on(fresh(), kind="lora")
