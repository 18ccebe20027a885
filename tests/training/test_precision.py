import pytest
import torch

from components.core.errors import InputError
from components.training import precision
from components.training.precision import chosen_device, chosen_precision, compute_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, "32-true"),
        ({"architecture": "aarch64"}, "32-true"),
    ],
)
def test_auto_takes_bf16_where_the_cpu_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert chosen_precision("auto", CPU) == expected


def test_a_request_is_honoured_whatever_the_hardware() -> None:
    assert chosen_precision("32-true", CPU) == "32-true"
    assert chosen_precision("bf16-mixed", CPU) == "bf16-mixed"
    assert compute_dtype("bf16-mixed") == torch.bfloat16
    assert compute_dtype("32-true") == torch.float32


def test_an_absent_gpu_is_an_error_that_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == CPU
    with pytest.raises(InputError, match=r"trainer\.device=cpu"):
        chosen_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_takes_bf16_on_a_gpu_that_has_it() -> None:
    assert chosen_precision("auto", chosen_device("auto")) == "bf16-mixed"
