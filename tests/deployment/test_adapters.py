"""Adapters by request: one server answers with and without them, and refuses what it cannot serve."""

import codecs
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from components.cascade.calibration import LEVELS, CallCalibration
from components.core.errors import ArtifactError, InputError, LacewingError
from components.core.run import Run
from components.delegation.bundled import DelegationRecord
from components.deployment.adapters import AdapterSources
from components.deployment.decoding import Request
from components.deployment.engine import Engine
from components.deployment.in_process import answer, requests_of
from components.deployment.server import main
from components.deployment.smoke import server as server_process
from components.model.adapters.config import Kind
from components.model.adapters.files import CONFIG, PICKLED, WEIGHTS, read_adapter, write_adapter
from components.model.bundle import Bundle
from components.model.checkpoint import load_model
from components.model.generate import Sampling, generate
from components.model.transformer import Transformer
from components.training.trained import TrainedModel
from tests.fakes import SPECIAL
from tests.model.test_adapters import put_on, train

PROMPT = "The history of the harbour"
NEVER = CallCalibration(quantiles=[0.0] * LEVELS, tokens=1, factual=False)


class Served(NamedTuple):
    """A cascade's bundle, and two adapters of its model."""

    bundle: Bundle
    support: Path
    """A LoRA in a sealed artifact, with rows of the special tokens."""
    tone: Path
    """(IA)^3 in PEFT's format alone."""
    calibration: Path
    """Of a model that never calls."""

    @property
    def sources(self) -> AdapterSources:
        return AdapterSources(
            {"support": str(self.support), "tone": str(self.tone)}, {"support": str(self.calibration)}
        )

    def merged(self, name: str) -> Transformer:
        model = load_model(self.bundle.folder)
        if name:
            folder = {"support": self.support / TrainedModel.ADAPTER, "tone": self.tone}[name]
            read_adapter(model, folder).merge()
        return model.eval()


def write_trained(bundle: Bundle, folder: Path, kind: Kind) -> None:
    model = load_model(bundle.folder)
    adapter = put_on(model, kind=kind)
    train(model, steps=6)
    write_adapter(adapter, folder, SPECIAL)


def sealed(folder: Path, stage: str = "chat") -> Path:
    """An artifact with what lies in ``folder``."""
    Run.local(folder, stage).seal({"tokens": 1.0})
    return folder


@pytest.fixture(scope="module")
def served(asking: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Served:
    root = tmp_path_factory.mktemp("adapters")
    write_trained(asking, root / "chat" / TrainedModel.ADAPTER, "lora")
    write_trained(asking, root / "tone", "ia3")
    NEVER.save(root / "calibration.json")
    return Served(asking, sealed(root / "chat"), root / "tone", root / "calibration.json")


@pytest.fixture(scope="module")
def client(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    log = tmp_path_factory.mktemp("server") / "server.log"
    adapters, calibrations = json.dumps(dict(served.sources.folders)), json.dumps(dict(served.sources.calibrations))
    options = ["--name=base", "--threads=1", f"--adapters={adapters}", f"--calibrations={calibrations}"]
    with (
        server_process(served.bundle.folder, log, 120.0, options) as url,
        httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def engine(served: Served) -> Iterator[Engine]:
    with Engine(served.bundle.folder, threads=1, adapters=served.sources) as engine:
        yield engine


def test_every_request_has_its_own_adapter_in_one_batch(client: httpx.Client, served: Served, engine: Engine) -> None:
    ids = engine.tokenizer.encode(PROMPT)

    def asked(name: str) -> dict[str, Any]:
        body = {"model": name, "prompt": PROMPT, "max_tokens": 30, "temperature": 0, "call_budget": 0}
        answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    names = ["base", "base:support", "base:tone", "base:support", ""]
    with ThreadPoolExecutor(len(names)) as threads:
        answers = list(threads.map(asked, names))
    stops = frozenset({SPECIAL.end_of_text, SPECIAL.im_end})
    sampling = Sampling(temperature=0, max_tokens=30, stop_ids=stops, suppress_ids=frozenset({SPECIAL.call}))
    texts = []
    for name, found in zip(names, answers, strict=True):
        merged = served.merged(name.partition(":")[2])
        written = [step.token for step in generate(merged, ids, sampling)]
        expected = b"".join(engine.tokenizer.token_bytes(id) for id in written if id not in stops)
        text = found["choices"][0]["text"]
        # An incomplete character at the end is never sent.
        assert text == codecs.getincrementaldecoder("utf-8")(errors="replace").decode(expected)
        assert found["model"] == (name or "base")
        texts.append(text)
    assert len(set(texts)) == 3


def test_the_adapters_are_listed_as_models(client: httpx.Client) -> None:
    cards = client.get("/v1/models").json()["data"]
    assert [(card["id"], card.get("parent")) for card in cards] == [
        ("base", None),
        ("base:support", "base"),
        ("base:tone", "base"),
    ]
    assert client.get("/v1/models/base:tone").json() == cards[2]


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_an_unknown_adapter_is_not_found_and_those_that_exist_are_named(client: httpx.Client, path: str) -> None:
    asked = {"prompt": "x"} if path == "completions" else {"messages": [{"role": "user", "content": "x"}]}
    answer = client.post(f"/v1/{path}", json={"model": "base:sales", **asked})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["code"] == "model_not_found"
    assert "'base:sales' is not served here; this server has 'base', 'base:support', 'base:tone'" in error["message"]


def test_an_adapter_speaks_in_a_chat_with_its_own_rows(client: httpx.Client) -> None:
    def said(name: str) -> str:
        body = {"model": name, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 12, "temperature": 0}
        answer = client.post("/v1/chat/completions", json={**body, "call_budget": 0})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    assert len({said("base"), said("base:support"), said("base:tone")}) == 3


def test_a_prompt_is_not_scored_with_an_adapter(client: httpx.Client) -> None:
    body = {"model": "base:tone", "prompt": PROMPT, "echo": True, "logprobs": 1, "max_tokens": 1}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert "leave out one of the two" in answer.json()["error"]["message"]
    assert client.post("/v1/completions", json={**body, "model": "base"}).status_code == 200


def test_an_adapter_calls_by_its_own_calibration_or_by_the_models(engine: Engine) -> None:
    def calls(adapter: str) -> int:
        (asked,) = requests_of(engine, [PROMPT], adapter=adapter, max_tokens=20, temperature=0, call_budget=0.5)
        (found,) = answer(engine, [asked])
        return found.calls

    assert calls("support") == 0
    assert calls("tone") > 0
    assert calls("") > 0


def test_the_engine_refuses_an_adapter_that_it_does_not_have(engine: Engine) -> None:
    with pytest.raises(InputError, match="no adapter 'sales' here; there are support, tone"):
        engine.submit([(Request([5, 6], adapter="sales"), print)])


# --- What cannot be served is refused at the start


def _other_base(folder: Path, served: Served) -> Path:
    write_trained(served.bundle, folder / "other", "lora")
    record = json.loads((folder / "other" / "base.json").read_text())
    (folder / "other" / "base.json").write_text(json.dumps({**record, "weights": "0" * 64}))
    return folder / "other"


def _altered(folder: Path, served: Served) -> Path:
    copy = shutil.copytree(served.support, folder / "chat")
    path = copy / TrainedModel.ADAPTER / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # one bit of one weight
    path.write_bytes(content)
    return copy


def _altered_and_named_by_the_adapters_folder(folder: Path, served: Served) -> Path:
    return _altered(folder, served) / TrainedModel.ADAPTER


def _pickled(folder: Path, served: Served) -> Path:
    copy = shutil.copytree(served.tone, folder / "tone")
    (copy / WEIGHTS).rename(copy / PICKLED)
    return copy


def _loha(folder: Path, served: Served) -> Path:
    copy = shutil.copytree(served.tone, folder / "tone")
    record = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps({**record, "peft_type": "LOHA"}))
    return copy


def _rounded(folder: Path, served: Served) -> Path:
    write_trained(served.bundle, folder / "chat" / TrainedModel.ADAPTER, "loftq")
    return sealed(folder / "chat")


def _all_weights(folder: Path, served: Served) -> Path:
    (folder / "chat" / TrainedModel.MODEL).mkdir(parents=True)
    return sealed(folder / "chat")


def _classifier(folder: Path, served: Served) -> Path:
    shutil.copytree(served.tone, folder / "classify" / TrainedModel.ADAPTER)
    return sealed(folder / "classify", "classify")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (_other_base, r"adapters\.x: the adapter in \S+ belongs to tiny with the weights 0{16}, and this is tiny with"),
        (_altered, "adapter_model.safetensors"),
        (_altered_and_named_by_the_adapters_folder, "adapter_model.safetensors"),
        (_pickled, "adapter_model.bin would run code when read"),
        (_loha, "peft_type is 'LOHA', but only IA3 and LORA are read"),
        (_rounded, r"rounded to 4 bits \(loftq\).* serve its merged model .*kind=pissa"),
        (_all_weights, "all weights of .* were trained, so there is no adapter"),
        (_classifier, "tells labels with a head of its own"),
        (lambda folder, served: folder / "nowhere", "is no folder: give an artifact of finetuning"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    made: Callable[[Path, Served], Path], words: str, served: Served, tmp_path: Path
) -> None:
    sources = AdapterSources({"x": str(made(tmp_path, served))})
    with pytest.raises(LacewingError, match=words):
        sources.load(load_model(served.bundle.folder), None)


def test_a_calibration_that_nothing_can_use_is_refused(served: Served, tmp_path: Path) -> None:
    model = load_model(served.bundle.folder)
    with pytest.raises(InputError, match="the served model is a plain one"):
        served.sources.load(model, None)
    broken = tmp_path / "calibration.json"
    broken.write_text("{}")
    delegation = DelegationRecord.load(served.bundle.folder)
    for path, error in ((broken, ArtifactError), (tmp_path / "none.json", InputError)):
        sources = AdapterSources({"tone": str(served.tone)}, {"tone": str(path)})
        with pytest.raises(error, match="calibration"):
            sources.load(model, delegation)


def test_the_servers_process_says_what_is_wrong(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    folder, there = str(served.bundle.folder), json.dumps({"x": str(served.tone.parent / "nowhere")})
    assert main([folder, "--port=0", f"--adapters={there}"]) != 0
    assert "adapters.x=" in capsys.readouterr().err
    for given, words in (('{"a:b": "x"}', "a:b"), ("support", "--adapters"), ("[1]", "dictionary")):
        assert main([folder, "--port=0", f"--adapters={given}"]) == 2
        assert words in capsys.readouterr().err
    assert main([folder, "--port=0", '--calibrations={"x": "y"}']) == 2
    assert "'x', which is no adapter; adapters has none" in capsys.readouterr().err
