"""A training step beside those of nanoGPT and transformers, and beside its bare matrix products.

``python -m benchmarks.peers``. All train on the same rows of tokens with the same depth, width, heads, vocabulary,
clipping and AdamW, eagerly, each as its users get it:

- ours with packed documents, which no token sees beyond; and with one document a row, as the others take it;
- a GPT as in nanoGPT, written anew: learned positions, LayerNorm, GELU, all logits at once, AdamW that is not fused on
  a CPU. It has all heads as key heads and a hidden width of four times the width without a gate: for its layers that
  is 12 % more multiplications than ours at 10m, and 20 % fewer at quick;
- ``LlamaForCausalLM`` of transformers, which has our operations exactly;
- the matrix products alone, forward and backward, into memory that is there: what no step can be faster than.

In turns in one process, medians. Freed memory stays with the process, as in our stage, so the others gain from it too.
To see another CPU's limits: ``ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2``, and for
what Numba compiles ``NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx,+avx2,+fma,+bmi,+bmi2,+popcnt,+f16c,+movbe``.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.results import Result, add_record_option, given_command, record
from benchmarks.training import MODELS, random_batch, training_step
from components.model.block_attention import BLOCK_QUERIES
from components.model.config import ModelConfig
from components.training.config import TrainerConfig
from components.training.loader import Batch
from components.training.memory import keep_freed_memory
from components.training.threads import set_threads

Step = Callable[[], object]
GOAL = 1.3


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="10m", choices=sorted(path.stem for path in MODELS.glob("*.yaml")))
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=16, help="sequences in a batch")
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--threads", type=int, default=0, help="0: one per physical core")
    parser.add_argument("--rounds", type=int, default=7)
    add_record_option(parser)
    options = parser.parse_args()
    config = ModelConfig.model_validate(yaml.safe_load((MODELS / f"{options.preset}.yaml").read_text()))
    threads = set_threads(TrainerConfig(threads=options.threads))
    keep_freed_memory()
    steps = all_steps(config, options.vocabulary, options.rows, options.precision)
    what = f"{config.name}, {options.precision}, {options.rows} x {config.context_length} tokens"
    capability = torch.backends.cpu.get_cpu_capability()
    what += f", vocabulary {options.vocabulary:,}, {threads} threads, {capability}"
    results = list(compared(in_turns(steps, options.rounds), what))
    table = Table("what", "measured", "goal", "remark", title=f"a training step, torch {torch.__version__}")
    for result in results:
        print(result, file=sys.stderr, flush=True)
        table.add_row(result.what, result.measured, result.goal, result.remark)
    Console().print(table)
    if options.record:
        record("peers", results, given_command("benchmarks.peers"))


def all_steps(config: ModelConfig, vocabulary: int, rows: int, precision: str) -> dict[str, Step]:
    """Every side of the comparison, by name."""
    packed = random_batch(config, vocabulary, rows)
    whole = packed._replace(document_start=torch.zeros_like(packed.document_start))
    gpt, llama = GPT(config, vocabulary), transformers_llama(config, vocabulary)
    return {
        "ours, packed documents": training_step(config, vocabulary, packed, precision),
        "ours, a document a row": training_step(config, vocabulary, whole, precision),
        "nanoGPT": peer_step(gpt, lambda: gpt(packed.tokens, packed.targets), precision),
        "transformers": peer_step(llama, partial(llama_loss, llama, packed), precision),
        "matrix products alone": bare_products(config, vocabulary, rows, precision),
    }


def in_turns(steps: Mapping[str, Step], rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and processor seconds of every step, after two calls to warm up."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(-2, rounds):
        for name, step in steps.items():
            wall, processor = time.perf_counter(), time.process_time()
            step()
            if turn >= 0:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {name: (median(t[0] for t in times), median(t[1] for t in times)) for name, times in seconds.items()}


def compared(times: Mapping[str, tuple[float, float]], what: str) -> Iterator[Result]:
    """Rows for people: each of our steps against each peer, and the share of the bare products."""
    for ours in ("ours, packed documents", "ours, a document a row"):
        for peer in ("nanoGPT", "transformers"):
            wall, processor = (times[peer][clock] / times[ours][clock] for clock in (0, 1))
            both = " and ".join(f"{times[each][1] * 1e3:,.0f}" for each in (ours, peer))
            yield Result(
                f"{ours} / {peer}, tokens per processor second, {what}",
                f"{processor:.2f} x",
                f">= {GOAL} x",
                f"{both} ms of a processor; {wall:.2f} x by the wall clock",
            )
        share = times["matrix products alone"][1] / times[ours][1]
        yield Result(f"matrix products alone, share of a step: {ours}, {what}", f"{share:.0%}", "", "processor seconds")


def bare_products(config: ModelConfig, vocabulary: int, rows: int, precision: str) -> Step:
    """Forward and both gradients of every matrix of our step, and attention's six products over the causal half."""
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    tokens, keys = rows * config.context_length, config.kv_heads * config.head_dim
    block = (
        [(config.width, config.attention_width)] * 2
        + [(config.width, keys)] * 2
        + [(config.width, config.hidden_width)] * 3
    )
    linear = [(both_ways(tokens, *shape, dtype), config.layers) for shape in block]
    attention = attention_products(config, rows, dtype)
    output = both_ways(tokens, config.width, vocabulary, dtype)

    def step() -> None:
        for product, times in linear:
            for _ in range(times):
                product()
        for _ in range(config.layers):
            attention()
        output()

    return step


def both_ways(tokens: int, inputs: int, outputs: int, dtype: torch.dtype) -> Step:
    x, weight, upstream = (
        torch.randn(shape, dtype=dtype) for shape in ((tokens, inputs), (outputs, inputs), (tokens, outputs))
    )
    result, of_x, of_weight = torch.empty_like(upstream), torch.empty_like(x), torch.empty_like(weight)

    def run() -> None:
        torch.mm(x, weight.T, out=result)
        torch.mm(upstream, weight, out=of_x)
        torch.mm(upstream.T, x, out=of_weight)

    return run


def attention_products(config: ModelConfig, rows: int, dtype: torch.dtype) -> Step:
    group, block = config.heads // config.kv_heads, BLOCK_QUERIES[dtype]
    shapes = []
    for begin in range(0, config.context_length, block):
        end = min(begin + block, config.context_length)
        lines = torch.randn(rows * config.kv_heads, (end - begin) * group, config.head_dim, dtype=dtype)
        keys = torch.randn(rows * config.kv_heads, end, config.head_dim, dtype=dtype)
        scores = torch.randn(len(lines), lines.shape[1], end, dtype=dtype)
        shapes.append((lines, keys, scores, torch.empty_like(lines), torch.empty_like(keys)))

    def run() -> None:
        for lines, keys, scores, of_lines, of_keys in shapes:
            for _ in range(2):
                torch.bmm(lines, keys.mT, out=scores)
                torch.bmm(scores, keys, out=of_lines)
                torch.bmm(scores.mT, lines, out=of_keys)

    return run


class GPT(nn.Module):
    """A GPT with the parts that nanoGPT has; ``forward`` gives the mean loss."""

    def __init__(self, config: ModelConfig, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, config.width)
        self.positions = nn.Embedding(config.context_length, config.width)
        self.blocks = nn.ModuleList(GPTBlock(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, bias=False)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        hidden = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            hidden = block(hidden)
        logits = F.linear(self.norm(hidden), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class GPTBlock(nn.Module):
    """Attention and a fourfold MLP, each after a LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        joint = self.query_key_value(self.norms[0](hidden)).unflatten(-1, (3, self.heads, -1))
        query, key, value = (each.transpose(1, 2) for each in joint.unbind(2))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.output(mixed.transpose(1, 2).flatten(2))
        output: Tensor = hidden + self.down(F.gelu(self.up(self.norms[1](hidden))))
        return output


def transformers_llama(config: ModelConfig, vocabulary: int) -> nn.Module:
    """The same model by transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=config.width,
        intermediate_size=config.hidden_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context_length,
        tie_word_embeddings=config.tied,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model: nn.Module = LlamaForCausalLM(shape)
    return model.train()


def llama_loss(model: nn.Module, batch: Batch) -> Tensor:
    loss: Tensor = model(input_ids=batch.tokens, labels=batch.tokens).loss
    return loss


def peer_step(model: nn.Module, loss_of: Callable[[], Tensor], precision: str) -> Step:
    """Forward, backward, clip, AdamW as nanoGPT sets it up on a CPU."""
    parameters: Sequence[nn.Parameter] = list(model.parameters())
    settings = TrainerConfig()
    groups = [
        {"params": [weight for weight in parameters if weight.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in parameters if weight.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2))

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


if __name__ == "__main__":
    main()
