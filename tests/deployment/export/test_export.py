"""What is exported is read by the engines that it is for, and says what rounding costs."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import InputError
from components.core.identity import digest_file
from components.core.run import Run
from components.data.config import DataConfig, WorldConfig
from components.data.prepare import stage as prepare
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.deployment.bundle import stage as bundle_stage
from components.deployment.config import BundleStageConfig
from components.deployment.export.config import ExportConfig
from components.deployment.export.export import RECORD, ExportRecord, export
from components.deployment.export.gguf_file import write_gguf
from components.deployment.export.gguf_tokenizer import splitter
from components.deployment.export.onnx_file import TOLERANCE, difference
from components.deployment.export.quantiser import fitting, restored, rounded
from components.model.bundle import Bundle
from components.model.config import ModelConfig, RopeScaling
from components.model.transformer import Transformer
from tests.deployment.conftest import Stages
from tests.deployment.export.llama_cpp import LlamaCpp, llama_cpp
from tests.hugging_face_folders import byte_level, sentencepiece_like
from tests.trained import untrained

CONTEXT = 64
TEXTS = [
    "The quick brown fox doesn't jump over 12345 lazy dogs.\n\n  Twice!",
    "naïve café — “déjà vu” 東京 🙂\tend\r\n",
    "<|im_start|>user\nWho was Ada?<|im_end|>\n<|im_start|>assistant\n",
    "I'LL they'Ve   x=1,000.50;;; \u00a0 <CALL> done<|endoftext|>",
]
SHAPES = {
    "grouped": ModelConfig(layers=2, width=32, hidden_width=64, heads=4, kv_heads=2, context_length=CONTEXT),
    "head_size": ModelConfig(
        layers=1, width=64, hidden_width=96, heads=2, kv_heads=1, head_size=16, context_length=CONTEXT
    ),
    "untied": ModelConfig(layers=1, width=32, hidden_width=32, heads=2, kv_heads=2, tied=False, context_length=CONTEXT),
    "linear": ModelConfig(
        layers=1, width=32, hidden_width=32, context_length=CONTEXT, rope_scaling=RopeScaling(kind="linear", factor=4.0)
    ),
    "llama3": ModelConfig(
        layers=1,
        width=64,
        hidden_width=64,
        context_length=CONTEXT,
        rope_theta=100.0,
        rope_scaling=RopeScaling(
            kind="llama3", factor=8.0, low_frequency_factor=1, high_frequency_factor=4, original_context=32
        ),
    ),
}


@pytest.fixture(scope="module")
def folder(bundle: Bundle) -> Path:
    return bundle.folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> TextTokenizer:
    return TextTokenizer.load(folder)


def model_of(shape: ModelConfig, tokenizer: TextTokenizer) -> Transformer:
    """Random weights so large that the likeliest token is likely: rounding does not change which it is."""
    torch.manual_seed(3)
    model = Transformer(shape, tokenizer.vocab_size).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.copy_(torch.randn_like(weight) * 2 / weight.shape[1] ** 0.5)
    return model


def ours(model: Transformer, tokenizer: TextTokenizer, prompt: list[int], tokens: int) -> tuple[list[int], list[float]]:
    """The likeliest continuation without ``<CALL>``, and its log-probabilities, which llama.cpp takes before that."""
    ids, likelihoods = list(prompt), []
    for _ in range(tokens):
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([ids])))[0, -1]
        token = logits.index_fill(0, torch.tensor([tokenizer.call_id]), -torch.inf).argmax()
        if int(token) in (tokenizer.special.end_of_text, tokenizer.special.im_end):
            break  # llama.cpp does not show what ended a text
        ids.append(int(token))
        likelihoods.append(float(logits.log_softmax(-1)[token]))
    return ids[len(prompt) :], likelihoods


def compare(theirs: LlamaCpp, model: Transformer, tokenizer: TextTokenizer, tolerance: float, tokens: int = 16) -> None:
    """The same tokens, and where llama.cpp tells it the same likelihood of the first."""
    compared = 0
    for text in TEXTS:
        prompt = tokenizer.encode(text)[:24]
        expected, likelihoods = ours(model, tokenizer, prompt, tokens)
        assert theirs.greedy(prompt, tokens, tokenizer.call_id)[: len(expected)] == expected
        if expected and (likelihood := theirs.likelihood(prompt, tokenizer.call_id)) is not None:
            assert likelihood == pytest.approx(likelihoods[0], abs=tolerance)
            compared += 1
    assert compared


@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_writes_the_same_tokens_whatever_the_shape(
    name: str, folder: Path, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    model = model_of(SHAPES[name], tokenizer)
    used = write_gguf(model, folder, tmp_path / "a.gguf", name, "f32")
    assert set(used) == {"f32"}
    with llama_cpp(tmp_path / "a.gguf", CONTEXT) as theirs:
        compare(theirs, model, tokenizer, 1e-4)


def test_llama_cpp_cuts_text_into_the_same_tokens(folder: Path, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    write_gguf(model_of(SHAPES["grouped"], tokenizer), folder, tmp_path / "a.gguf", "a", "f32")
    with llama_cpp(tmp_path / "a.gguf", CONTEXT) as theirs:
        for text in TEXTS:
            assert theirs.ids(text) == tokenizer.encode(text)
        for name, id in tokenizer.special.ids.items():
            assert theirs.ids(f"a{name}b", special=True) == [*tokenizer.encode("a"), id, *tokenizer.encode("b")]

        @settings(max_examples=60, deadline=None)
        @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40))
        def any_text(text: str) -> None:
            assert theirs.ids(text) == tokenizer.encode(text)

        any_text()


@pytest.mark.parametrize("precision", ["f16", "q8_0"])
def test_the_model_that_is_measured_is_the_one_that_llama_cpp_reads(
    precision: Any, folder: Path, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    model = model_of(SHAPES["grouped"], tokenizer)
    before = [weight.detach().clone() for weight in model.parameters()]
    write_gguf(model, folder, tmp_path / "a.gguf", "a", precision)
    assert any(not torch.equal(was, now) for was, now in zip(before, model.parameters(), strict=True))
    with llama_cpp(tmp_path / "a.gguf", CONTEXT) as theirs:
        # With q8_0 it also rounds what the matrices are multiplied by.
        compare(theirs, model, tokenizer, {"f16": 0.01, "q8_0": 0.2}[precision], tokens=1)


def test_k_quants_are_llama_cpps_and_what_does_not_fit_takes_a_finer_format(
    folder: Path, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    shape = ModelConfig(layers=1, width=256, hidden_width=96, heads=4, kv_heads=2, context_length=CONTEXT)
    model = model_of(shape, tokenizer)
    used = write_gguf(model, folder, tmp_path / "a.gguf", "a", "q4_k")
    assert used == {"q6_k": 1, "q4_k": 6, "q8_0": 1}, "the embeddings finer, the matrix with rows of 96 in blocks of 32"
    with llama_cpp(tmp_path / "a.gguf", CONTEXT) as theirs:
        compare(theirs, model, tokenizer, 0.3, tokens=1)


def test_fewer_bits_lose_more() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(8, 512).numpy()
    lost = [
        float(((restored(rounded(matrix, precision), precision) - matrix) ** 2).mean())
        for precision in ("f32", "f16", "q8_0", "q6_k", "q5_k", "q4_k")
    ]
    assert lost[0] == 0
    assert lost == sorted(lost)
    assert lost[-1] < 0.02
    assert [fitting("q4_k", row) for row in (512, 96, 50)] == ["q4_k", "q8_0", "f16"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    world = WorldConfig(entities=24, documents_per_entity=2, questions=20)
    return prepare(Run.local(tmp_path_factory.mktemp("prepared")), DataConfig(world=world, vocab_size=320))


def test_an_export_is_recorded_with_its_loss(prepared: PreparedData, stages: Stages, tmp_path: Path) -> None:
    delegated = untrained(tmp_path / "model", prepared, SHAPES["grouped"])
    made = {"delegated": delegated, "prepared": prepared, "assessment": stages.assessment}
    bundle = bundle_stage(Run.local(tmp_path / "bundle", "bundle"), BundleStageConfig(name="tiny"), **made)
    done: list[float] = []
    config = ExportConfig(into=str(tmp_path / "out"), precision="q8_0", documents=3)
    record = export(bundle, config, prepared, done.append)
    assert ExportRecord.model_validate_json((tmp_path / "out" / RECORD).read_bytes()) == record
    (name,) = record.files
    assert name == "tiny-q8_0.gguf"
    assert record.files[name].sha256 == digest_file(tmp_path / "out" / name)
    assert record.bundle == bundle.key
    assert record.loss is not None
    assert record.loss.bits_per_byte != record.loss.bits_per_byte_exported
    assert abs(record.loss.share) < 0.01
    assert done[-1] == 1
    again = export(bundle, config.model_copy(update={"precision": "f32", "documents": 0}), prepared)
    assert again.loss is None


def test_transformers_reads_the_folder_in_half_precision(bundle: Bundle, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    export(bundle, ExportConfig(into=str(tmp_path / "out"), format="huggingface", precision="f16", documents=0))
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "out")
    assert theirs.dtype == torch.float16
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(TEXTS[0])["input_ids"] == bundle.tokenizer().encode(TEXTS[0])
    embedding = bundle.load().embedding.weight
    torch.testing.assert_close(theirs.model.embed_tokens.weight, embedding.half(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"format": "huggingface", "precision": "q8_0"},
            "precision=q8_0 is for another format; format=huggingface has f32",
        ),
        ({"format": "onnx", "precision": "f16"}, "precision=f16 is for another format; format=onnx has f32"),
        ({"into": "a file"}, "is a file: name a folder"),
        ({"into": "full"}, "holds other files, and no export.json of an earlier export"),
    ],
)
def test_what_cannot_be_written_is_refused(
    changes: dict[str, str], words: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a file").touch()
    Path("full").mkdir()
    Path("full/mine.txt").touch()
    with pytest.raises(InputError, match=words):
        export(bundle, ExportConfig.model_validate({"documents": 0, **changes}))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a file", "full"]


def test_a_tokenizer_is_written_only_if_llama_cpp_reads_text_as_it_does() -> None:
    known, unknown = (json.loads(make().to_str()) for make in (byte_level, sentencepiece_like))
    assert splitter(known, Path("a")) == "gpt-2"
    with pytest.raises(InputError, match=r"llama\.cpp would split text otherwise.*Use format=huggingface"):
        splitter(unknown, Path("a"))


def test_without_the_library_the_error_says_what_to_install(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importing = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return importing(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"pip install 'lacewing\[gguf\]'"):
        export(bundle, ExportConfig(into=str(tmp_path / "out"), documents=0))


def test_onnx_runtime_makes_the_same_logits(bundle: Bundle, tmp_path: Path) -> None:
    import onnxruntime

    config = ExportConfig(into=str(tmp_path / "out"), format="onnx", precision="f32", documents=0)
    record = export(bundle, config)
    assert {"model.onnx", "tokenizer.json"} <= record.files.keys()
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == sorted([*record.files, RECORD])
    model, ids = bundle.load(), bundle.tokenizer().encode(TEXTS[0])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    batches: list[list[list[int]]] = [[ids], [ids[:1]], [ids[:5], ids[5:10], ids[1:6]]]
    for batch in batches:  # traced with other lengths and another number of texts
        (theirs,) = session.run(None, {"tokens": batch})
        with torch.no_grad():
            logits = model.logits(model(torch.tensor(batch)))
        torch.testing.assert_close(torch.from_numpy(theirs), logits, rtol=1e-5, atol=1e-3)
    with torch.no_grad():
        model.embedding.weight[7] += 0.1
    assert difference(model, tmp_path / "out" / "model.onnx") > TOLERANCE, "another model is told apart"
