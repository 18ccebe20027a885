import json
import subprocess
import sys
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.core.errors import InputError
from components.model import block_attention, ops
from components.model.compiled import attention as compiled_attention
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from kernels.dispatch import Implementation, using

CPU = torch.device("cpu")
BF16, FP32 = torch.bfloat16, torch.float32


def plain_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ weight.T).float(), targets, reduction="none", ignore_index=-100)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, document_start: Tensor | None) -> Tensor:
    group = query.shape[2] // key.shape[2]
    query, key, value = (
        query.transpose(1, 2),
        key.repeat_interleave(group, 2).transpose(1, 2),
        value.repeat_interleave(group, 2).transpose(1, 2),
    )
    seq, keys = query.shape[2], key.shape[2]
    at = torch.arange(keys)
    visible = at[None, None, :] <= at[None, keys - seq :, None]
    if document_start is not None:
        visible = visible & (at[None, None, :] >= document_start[:, :, None])
    scores = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).masked_fill(~visible[:, None], float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize(("rows", "width", "vocab"), [(307, 33, 123), (1, 8, 5), (100, 16, 64), (201, 7, 252)])
def test_cross_entropy_equals_the_plain_one_in_value_and_gradients(rows: int, width: int, vocab: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, width), torch.randn(vocab, width)
    targets = torch.randint(0, vocab, (rows,))
    targets[1::7] = -100
    upstream = torch.rand(rows)
    results = []
    for implementation in (ops.linear_cross_entropy, plain_cross_entropy):
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        nll = implementation(*leaves, targets)
        (nll * upstream).sum().backward()
        results.append((nll.detach(), leaves[0].grad, leaves[1].grad))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-5, rtol=2e-5)
    assert (results[0][0][1::7] == 0).all()


def test_cross_entropy_survives_certain_and_impossible_targets() -> None:
    hidden = torch.tensor([[100.0], [100.0]], requires_grad=True)
    weight = torch.tensor([[10.0], [-10.0]], requires_grad=True)
    nll = ops.linear_cross_entropy(hidden, weight, torch.tensor([0, 1]))
    assert nll.tolist() == [0.0, 2000.0]
    nll.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert hidden.grad[0].abs().item() == 0.0


def test_cross_entropy_in_bf16_errs_no_more_than_plain_torch_in_bf16() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(300, 64), torch.randn(200, 64) * 0.3, torch.randint(0, 200, (300,))

    def gradients(implementation, autocast: bool) -> list[Tensor]:  # type: ignore[no-untyped-def]
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            nll = implementation(*leaves, targets)
        nll.mean().backward()
        return [nll.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    exact = gradients(plain_cross_entropy, autocast=False)
    ours = gradients(ops.linear_cross_entropy, autocast=True)
    torchs = gradients(plain_cross_entropy, autocast=True)
    for name, e, o, t in zip(("nll", "hidden", "weight"), exact, ours, torchs, strict=True):
        assert o.dtype == torch.float32
        assert (o - e).norm() <= 1.5 * (t - e).norm(), name


def test_the_statistics_of_every_token_come_through_the_same_place() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(2, 9, 8), torch.randn(40, 8), torch.randint(0, 39, (2, 9))
    stats = ops.linear_token_stats(hidden, weight, targets, call_id=39, return_argmax=True)
    logits = hidden @ weight.T
    without_call = F.cross_entropy(logits[..., :39].flatten(0, 1), targets.flatten(), reduction="none").view(2, 9)
    torch.testing.assert_close(stats.nll_excl, without_call)
    torch.testing.assert_close(stats.logp_call, logits.log_softmax(-1)[..., 39])
    assert stats.argmax is not None
    assert torch.equal(stats.argmax.long(), logits[..., :39].argmax(-1))


@settings(max_examples=40, deadline=None)
@given(
    seq=st.integers(1, 40),
    earlier=st.integers(0, 20),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    cuts=st.lists(st.integers(1, 39), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    implementation=st.sampled_from(["auto", "torch"]),
)
def test_attention_equals_the_plain_formula(
    seq: int,
    earlier: int,
    heads: tuple[int, int],
    cuts: list[int],
    dtype: torch.dtype,
    implementation: Implementation,
) -> None:
    torch.manual_seed(seq)
    document_start = None
    if cuts:  # documents and a cache exclude each other
        earlier = 0
        starts = torch.zeros(2, seq, dtype=torch.long)
        for cut in sorted(cuts):
            starts[1, cut:] = cut
        document_start = starts.minimum(torch.arange(seq))
    query = torch.randn(2, seq, heads[0], 8)
    key, value = (torch.randn(2, earlier + seq, heads[1], 8) for _ in range(2))
    narrow = [tensor.to(dtype) for tensor in (query, key, value)]
    with pytest.MonkeyPatch.context() as patch, using(implementation):
        documents = ops.packed(document_start, dtype, 8) if document_start is not None else None
        patch.setattr(block_attention, "BLOCK_QUERIES", dict.fromkeys((FP32, BF16), 16))
        patch.setattr(compiled_attention, "LINES", 16)
        ours = ops.attention(*narrow, documents)
    plain = plain_attention(*(tensor.float() for tensor in narrow), document_start)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), plain, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("packed", [False, True])
def test_the_flash_kernel_in_blocks_equals_the_plain_formula_with_its_gradients(
    monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr(ops, "PRODUCTS_ATTENTION_KEYS", 0)
    torch.manual_seed(0)
    leaves = [torch.randn(2, 100, heads, 16) for heads in (4, 2, 2)]
    starts = torch.zeros(2, 100, dtype=torch.long)
    starts[:, 10:] = 10
    upstream = torch.randn(2, 100, 4, 16)
    results = []
    for block in (200, 32):
        monkeypatch.setattr(ops, "CPU_BLOCK_QUERIES", block)
        narrow = [leaf.clone().requires_grad_() for leaf in leaves]
        with using("torch"):
            mixed = ops.attention(*narrow, ops.packed(starts, FP32, 16) if packed else None)
        results.append([mixed.detach(), *torch.autograd.grad(mixed, narrow, upstream)])
    narrow = [leaf.clone().requires_grad_() for leaf in leaves]
    mixed = plain_attention(narrow[0], narrow[1], narrow[2], starts if packed else None)
    for exact, *ours in zip([mixed.detach(), *torch.autograd.grad(mixed, narrow, upstream)], *results, strict=True):
        for each in ours:
            torch.testing.assert_close(each, exact, atol=1e-5, rtol=1e-5)


def test_beyond_the_products_the_flash_kernel_takes_documents_and_grouped_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ops, "PRODUCTS_ATTENTION_KEYS", 0)
    query, key, value = (torch.randn(2, 64, heads, 16, dtype=BF16) for heads in (4, 2, 2))
    for documents in (ops.packed(torch.zeros(2, 64, dtype=torch.long), BF16, 16), None):
        with using("torch"), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            ops.attention(query, key, value, documents)
        names = {event.key for event in profile.key_averages()}
        assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
        assert "aten::repeat_interleave" not in names


@pytest.mark.parametrize("amx", [False, True])
def test_left_alone_a_cpu_never_takes_triton(amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_has_amx", lambda: amx)
    compiled = {"attention": "loops compiled by Numba", "linear_cross_entropy": "torch, in chunks"}
    assert ops.chosen(CPU, FP32, 64, 1024) == ops.chosen(CPU, FP32, 20, 9999) == compiled
    if not amx:
        assert ops.chosen(CPU, BF16, 64, 1024) == ops.chosen(CPU, BF16, 64, 1025) == compiled
    else:
        assert ops.chosen(CPU, BF16, 64, 1024)["attention"] == "torch matrix products"
        assert ops.chosen(CPU, BF16, 64, 1025)["attention"] == "torch SDPA"
    assert ops.chosen(CPU, torch.float64, 64, 512)["attention"] == "torch SDPA"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """An H200, as far as the choice can tell."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA H200")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return torch.device("cuda")


@pytest.mark.parametrize(
    ("dtype", "head_dim", "seq", "documents", "path"),
    [
        (BF16, 64, 1024, True, "Triton kernel"),
        (torch.float16, 128, 4096, True, "Triton kernel"),
        (BF16, 64, 1024, False, "torch SDPA"),
        (BF16, 64, 127, True, "torch SDPA"),
        (FP32, 64, 1024, True, "torch SDPA"),
        (BF16, 32, 1024, True, "torch SDPA"),
        (BF16, 80, 1024, True, "torch SDPA"),
    ],
)
def test_a_gpu_takes_triton_for_documents_where_the_kernel_is_worth_it(
    gpu: torch.device, dtype: torch.dtype, head_dim: int, seq: int, documents: bool, path: str
) -> None:
    assert ops.chosen(gpu, dtype, head_dim, seq, documents)["attention"] == path
    assert ops.chosen(gpu, dtype, head_dim, seq, documents)["linear_cross_entropy"] == "torch products, Triton rows"


def test_an_old_gpu_and_a_wish_for_torch_take_no_kernel(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    torchs = {"attention": "torch SDPA", "linear_cross_entropy": "torch, in chunks"}
    with using("torch"):
        assert ops.chosen(gpu, BF16, 64, 1024) == torchs
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert ops.chosen(gpu, BF16, 64, 1024) == torchs


def test_a_measured_row_decides_up_to_its_length_and_the_longest_beyond(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"1024": "sdpa_flash", "4096": "triton", "8192": "sdpa_cudnn"}
    table = {"sm90": {"bfloat16": {"128": {"plain": rows, "documents": {"8192": "sdpa"}}}}}
    monkeypatch.setattr(ops, "_table", lambda: table)
    paths = [ops.chosen(gpu, BF16, 128, seq, documents=False)["attention"] for seq in (512, 1024, 1025, 8192, 99999)]
    assert paths == ["torch SDPA, flash"] * 2 + ["Triton kernel"] + ["torch SDPA, cuDNN"] * 2
    assert ops.chosen(gpu, BF16, 128, 2048)["attention"] == "torch SDPA"
    with using("torch"):  # the fastest of torch's own: the table's row where it is one of them
        assert ops.chosen(gpu, BF16, 128, 2048, documents=False)["attention"] == "torch SDPA"
        assert ops.chosen(gpu, BF16, 128, 8192, documents=False)["attention"] == "torch SDPA, cuDNN"


def test_the_table_holds_known_paths_for_lengths_that_are_told_apart_and_says_what_was_measured() -> None:
    table = json.loads(ops.TABLE.read_text())
    assert "measured" in table
    generations = {name: dtypes for name, dtypes in table.items() if name.startswith("sm")}
    assert generations
    for dtypes in generations.values():
        for heads in dtypes.values():
            for kinds in heads.values():
                assert set(kinds) <= {"plain", "documents"}
                for rows in kinds.values():
                    assert set(map(int, rows)) <= set(ops.BUCKETS)
                    assert set(rows.values()) <= set(get_args(ops.AttentionPath)) - {"products"}


def test_kernels_that_cannot_be_had_are_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACEWING_KERNELS", "triton")
    with pytest.raises(InputError, match=r"LACEWING_KERNELS=triton: .* head dimension 48 .*64"):
        ops.chosen(CPU, FP32, 48, 64)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match=r"LACEWING_KERNELS=triton: .*CUDA device.*TRITON_INTERPRET"):
        ops.chosen(CPU, FP32, 64, 64)
    monkeypatch.setenv("LACEWING_KERNELS", "cuda")
    with pytest.raises(InputError, match="LACEWING_KERNELS is 'cuda'; allowed are auto, torch, triton"):
        ops.attention(*(torch.randn(1, 4, 2, 8) for _ in range(3)))


@pytest.mark.parametrize("implementation", ["torch", "triton"])
def test_a_model_trains_in_one_graph_whatever_computes(implementation: Implementation) -> None:
    if implementation == "triton":
        pytest.importorskip("triton")
    shape = ModelConfig(name="t", layers=2, width=32, hidden_width=48, heads=2, kv_heads=1, context_length=48)
    torch.manual_seed(0)
    model = Transformer(shape, 50)

    def loss(tokens: Tensor, starts: Tensor) -> Tensor:
        hidden = model(tokens, starts)
        return ops.linear_cross_entropy(hidden.flatten(0, 1), model.output_weight, tokens.flatten()).mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    with using(implementation), ops.recorded() as taken:
        for seq in (32, 40, 48):  # after the second length the compiler no longer takes it for a constant
            tokens, starts = torch.randint(0, 50, (1, seq)), torch.full((1, seq), 0)
            starts[:, 20:] = 20
            results = []
            for call in (loss, compiled):
                value = call(tokens, starts)
                value.backward()
                results.append([value.detach(), *(weight.grad for weight in model.parameters())])
                model.zero_grad()
            for plain, ours in zip(*results, strict=True):
                torch.testing.assert_close(ours, plain)
    triton = implementation == "triton"
    assert taken == {
        "attention": {"triton" if triton else "products"},
        "linear_cross_entropy": {"triton" if triton else "torch"},
    }


def test_what_was_taken_is_recorded_fallbacks_included() -> None:
    with using("torch"), ops.recorded() as taken:
        for dtype in (BF16, torch.float64):
            ops.attention(*(torch.randn(1, 4, 2, 8, dtype=dtype) for _ in range(3)))
    assert ops.described(taken) == {"attention": "torch matrix products; torch SDPA"}


def test_triton_is_not_imported_before_a_kernel_runs() -> None:
    script = """
import sys, torch
from components.core.errors import InputError
from components.model import block_attention, ops
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from kernels.dispatch import Implementation, using
ops.attention(*(torch.randn(1, 4, 2, 8) for _ in range(3)))
ops.linear_cross_entropy(torch.randn(4, 8), torch.randn(9, 8), torch.tensor([0, 1, 2, 3]))
print(sorted(name for name in ("triton", "torch._dynamo") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
