"""Which implementation runs: argument, context, environment, and what is said when Triton cannot."""

import pytest
import torch

from kernels import dispatch
from kernels.dispatch import requested, resolved, using

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)


def test_an_argument_beats_the_context_which_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert requested() == "auto"
    monkeypatch.setenv(dispatch.VARIABLE, "torch")
    assert requested() == "torch"
    with using("triton"):
        assert requested() == "triton"
        assert requested("auto") == "triton"
        assert requested("torch") == "torch"
    assert requested() == "torch"


@pytest.mark.parametrize("word", ["Triton", "cuda", "flash"])
def test_another_word_is_refused_with_its_source_and_what_is_allowed(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = "allowed are auto, torch, triton"
    with pytest.raises(ValueError, match=f"impl is '{word}'; {allowed}"):
        requested(word)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"using is '{word}'; {allowed}"), using(word):  # type: ignore[arg-type]
        pass
    monkeypatch.setenv(dispatch.VARIABLE, word)
    with pytest.raises(ValueError, match=f"LACEWING_KERNELS is '{word}'; {allowed}"):
        requested()


def test_auto_takes_pytorch_on_the_cpu_even_where_the_interpreter_could_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolved(None, CPU) == "torch"
    assert resolved("triton", CPU) == "triton"


def test_triton_by_name_is_an_error_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"asked for, but the tensors are on cpu.*use torch or auto"):
        resolved("triton", CPU)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="asked for, but head dimension 48 has no kernel"):
        resolved("triton", CPU, obstacle="head dimension 48 has no kernel")


def test_auto_says_once_why_it_passed_the_kernel_by(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatch, "unavailable", lambda device: None)
    cuda = torch.device("cuda")
    for _ in range(3):
        assert resolved("auto", cuda, obstacle="head dimension 40 has no kernel") == "torch"
    assert [record.message for record in caplog.records] == [
        "PyTorch instead of the Triton kernel: head dimension 40 has no kernel"
    ]
    assert resolved("auto", cuda) == "triton"
