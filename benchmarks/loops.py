"""How many answers loop, with and without a penalty, and what that does to the truth. ``python -m benchmarks.loops``.

Biographies of a closed world, written greedily until the context is full, by a bundle alone and with its helper. An
answer loops if three or more words are followed at once by the same words, or if a sentence is written twice. The fact
table judges what is stated. Give the folder of a bundle of the closed world.
"""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.results import Result, add_record_option, given_command, record
from components.cascade.decoding import Cascade, CascadeRequest
from components.data.world.comprehension import World
from components.delegation.bundled import open_bundled_helper
from components.deployment.bundle import LoadedBundle, load_bundle
from components.evaluation.config import BootstrapConfig
from components.evaluation.factuality.generated import Biography, fact_scores, judged, subjects
from components.model.bundle import Bundle
from components.model.generate import text_sampling

_LEAST_WORDS = 3
_SENTENCE_WORDS = 4  # a shorter one ("He died.") may well be written twice
_SENTENCE_END = re.compile(r"(?<=\.)\s+")


def main() -> None:
    """Write and judge the biographies under every penalty, and print a row for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loops", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--biographies", type=int, default=200)
    parser.add_argument("--penalties", type=float, nargs="+", default=[0.0, 0.5, 1.0, 1.5])
    add_record_option(parser)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    world = World.load(options.bundle / Bundle.FACTS)
    names = subjects(world, options.biographies)
    results = []
    for asks in (False, True):
        for penalty in options.penalties:
            found = written(bundle, options.bundle, world, names, penalty, asks)
            results.append(summarised(found, penalty, asks))
            print(results[-1].what, results[-1].measured, results[-1].remark, flush=True)
    table = Table("what", "measured", "remark")
    for result in results:
        table.add_row(result.what, result.measured, result.remark)
    Console().print(table)
    if options.record:
        record("loops", results, given_command("benchmarks.loops"))


def written(
    bundle: LoadedBundle, folder: Path, world: World, names: Sequence[str], penalty: float, asks: bool
) -> list[Biography]:
    """One document about each of ``names`` as long as the context allows, read by the judge."""
    assert bundle.delegation is not None, "give the bundle of a model that asks"
    tokenizer, settings = bundle.tokenizer, bundle.delegation
    helper = open_bundled_helper(settings, folder, "cpu")
    cascade = Cascade(bundle.model, tokenizer, helper, settings.calibration, settings.cascade)
    sampling = text_sampling(tokenizer.special, bundle.model.config.context_length, presence_penalty=penalty)
    prompts = [[tokenizer.end_of_text_id, *tokenizer.encode(name)] for name in names]
    budget = settings.cascade.budget if asks else 0.0
    answers = cascade.answers([CascadeRequest(prompt, sampling, budget=budget) for prompt in prompts])
    helper.close()
    return [judged(world, tokenizer, name, answer) for name, answer in zip(names, answers, strict=True)]


def summarised(biographies: Sequence[Biography], penalty: float, asks: bool) -> Result:
    """The share that loops, and what is stated."""
    scores = fact_scores(biographies, BootstrapConfig())
    looping = sum(map(loops, (each.text for each in biographies))) / len(biographies)
    stated = sum(len({(fact, value) for _, _, fact, value, _ in each.claims}) for each in biographies)
    tokens = sum(each.small_tokens + each.helper_tokens for each in biographies) / len(biographies)
    true = f"{scores.precision.estimate:.1%}" if scores.precision else "none"
    return Result(
        f"{'with its helper' if asks else 'alone'}, presence_penalty {penalty:g}",
        f"{looping:.1%} of {len(biographies)} answers loop",
        remark=f"{true} of the stated facts are true; {stated:,} different ones, {scores.recall.estimate:.1%} of all; "
        f"{tokens:.0f} tokens an answer",
    )


def loops(text: str) -> bool:
    """Whether some words are followed at once by the same words, or a sentence is written twice."""
    words = text.split()
    for length in range(_LEAST_WORDS, len(words) // 2 + 1):
        if any(words[at : at + length] == words[at + length : at + 2 * length] for at in range(len(words))
               if at + 2 * length <= len(words)):  # fmt: skip
            return True
    sentences = Counter(part for part in _SENTENCE_END.split(text) if len(part.split()) >= _SENTENCE_WORDS)
    return max(sentences.values(), default=0) > 1


if __name__ == "__main__":
    main()
