"""What the reserved tokens of a model that was taken in cost: ``python -m benchmarks.weights_in MODEL TEXT ...``.

MODEL is a folder of Hugging Face's Llama family or a llama2.c file; a TEXT is a file as in ``data.sources``. The old
tokens keep their logits, so all that new ones change is the probability that they take, p: the divergence from the old
prediction to the new one is -log(1 - p) at every position. Means over all positions of a text and over seeds, for each
initialisation, without any training. ``most`` is the largest p of all positions and seeds; ``first`` is the share of
positions at which a new token has become the likeliest.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from components.core.run import Run
from components.data.config import DataConfig
from components.data.gather import gather
from components.data.reading import Reader
from components.data.tokenizer import TextTokenizer
from components.derive.config import DeriveConfig, DeriveStageConfig, Initialisation
from components.derive.stage import stage
from components.model.transformer import Transformer

INITIALISATIONS: tuple[Initialisation, ...] = get_args(Initialisation)


class Cost(NamedTuple):
    """What new tokens take, over all positions."""

    divergence: float
    """Nats per token."""
    taken: float
    most: float
    first: float


def main() -> None:
    """Print a table for each text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", nargs="+", help="as in data.sources; a table each")
    parser.add_argument("--tokens", type=int, default=20_000, help="of each text")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for source in arguments.texts:
        text = "\n".join(_documents(source, 8 * arguments.tokens))
        print(f"\n{Path(source).name}, {arguments.tokens:,} tokens\n")
        print("| initialisation | divergence, nats | taken | most | first |\n|---|---:|---:|---:|---:|")
        for initialisation in INITIALISATIONS:
            costs = [_cost(arguments.model, text, arguments.tokens, initialisation, s) for s in range(arguments.seeds)]
            print(f"| `{initialisation}` | {' | '.join(_cells(costs))} |")


def _cells(costs: Sequence[Cost]) -> Iterator[str]:
    count = len(costs)
    yield f"{sum(each.divergence for each in costs) / count:.4f}"
    yield f"{sum(each.taken for each in costs) / count:.2%}"
    yield f"{max(each.most for each in costs):.1%}"
    yield f"{sum(each.first for each in costs) / count:.2%}"


def _cost(place: Path, text: str, tokens: int, initialisation: Initialisation, seed: int) -> Cost:
    settings = DeriveConfig(initialisation=initialisation, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        derived = stage(Run.local(Path(folder)), DeriveStageConfig(start_from=str(place), derive=settings))
        model, tokenizer = derived.load(), TextTokenizer.load(derived.model_folder)
    old = int(derived.details["vocab_size"]) - int(derived.details["added_tokens"])
    ids = tokenizer.encode(text)[:tokens]
    taken, first = (torch.cat(parts) for parts in zip(*_taken(model, tokenizer, ids, old), strict=True))
    lost = -torch.log1p(-taken)
    return Cost(lost.mean().item(), taken.mean().item(), taken.max().item(), first.double().mean().item())


@torch.inference_mode()
def _taken(
    model: Transformer, tokenizer: TextTokenizer, ids: list[int], old: int
) -> Iterator[tuple[Float[Tensor, " positions"], Tensor]]:
    """Probability of all new tokens together, and whether one of them is the likeliest, at every position."""
    size = model.config.context_length - 1
    for start in range(0, len(ids), size):
        window = torch.tensor([[tokenizer.end_of_text_id, *ids[start : start + size]]])
        probability = model.logits(model(window)).double().softmax(-1)[0]
        yield probability[:, old:].sum(-1), probability.argmax(-1) >= old


def _documents(source: str, characters: int) -> Iterator[str]:
    config = DataConfig(sources=[source])
    with tempfile.TemporaryDirectory() as folder:
        files = gather(config, Path(folder), lambda fraction, message: None)
        for document in Reader(config).documents(files, lambda done: None):
            yield document.text
            characters -= len(document.text)
            if characters <= 0:
                return


if __name__ == "__main__":
    main()
