"""Does a logit bias keep to the budget? ``python -m benchmarks.gateway BUNDLE DATA --upstream URL``.

The server at URL runs the model of BUNDLE (``lacewing export`` writes its file). Two measurements on the test split of
DATA, which the calibration has not read: at every position of held-out text, whether the server stops at ``<CALL>``
under the bias of each budget; and answers through the gateway, beside those of our own cascade with the same rule.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import queue
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from components.cascade.call_scores import call_score
from components.cascade.decoding import Cascade, CascadeRequest, CascadeSummary
from components.core.errors import LacewingError
from components.data.prepared import PreparedData
from components.delegation.bundled import open_bundled_helper
from components.deployment.bundle import load_bundle
from components.deployment.decoding import Delta, Request
from components.deployment.gateway.config import GatewayConfig
from components.deployment.gateway.engine import GatewayEngine
from components.deployment.gateway.upstream import open_upstream
from components.model.generate import Sampling

BUDGETS = (0.05, 0.15, 0.3, 0.5)
SPLIT = "test"
PROMPT_TOKENS, ANSWER_TOKENS = 16, 48


def main() -> None:
    """Ask the server, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path, help="the prepare artifact that the model was trained on")
    parser.add_argument("--upstream", required=True, help="base URL of the server that runs the model")
    parser.add_argument("--positions", type=int, default=1500, help="of held-out text")
    parser.add_argument("--answers", type=int, default=40)
    given = parser.parse_args()
    documents = held_out(PreparedData.open(given.data))
    table = Table(
        "call budget", "held-out positions: calls", "not as our margin", "answers: calls", "failed", "text as ours"
    )
    rows = zip(
        positions(given.bundle, documents, given.upstream, given.positions),
        answers(given.bundle, documents, given.upstream, given.answers),
        strict=True,
    )
    for budget, (read, written) in zip(BUDGETS, rows, strict=True):
        table.add_row(f"{budget:.0%}", *read, *written)
    Console(width=120).print(table)


def held_out(data: PreparedData) -> list[list[int]]:
    """Documents of the test split, the boundary token in front."""
    split, boundary = data.shards().splits[SPLIT], data.tokenizer().end_of_text_id
    return [[boundary, *split.document(number).tolist()] for number in range(split.n_documents)]


def positions(bundle: Path, documents: list[list[int]], url: str, most: int) -> Iterator[tuple[str, str]]:
    """For each budget: where the server calls, and where our own margin says otherwise."""
    loaded = load_bundle(bundle)
    assert loaded.delegation is not None
    tokenizer, calibration = loaded.tokenizer, loaded.delegation.calibration
    upstream = open_upstream(url, tokenizer, "", "", 60.0)
    texts: list[list[int]] = []
    for document in documents:
        if sum(map(len, texts)) >= most:
            break
        texts.append(document[: loaded.model.config.context_length - 1])
    with torch.inference_mode():
        margins = [
            call_score(loaded.model.logits(loaded.model(torch.tensor([text])))[0], tokenizer.call_id, "logit_margin")
            for text in texts
        ]
    for budget in BUDGETS:
        threshold = calibration.threshold(budget, "logit_margin")
        called = [
            upstream.write(text[: at + 1], 1, -threshold).end == "call" for text in texts for at in range(len(text))
        ]
        ours = (torch.cat(margins) > threshold).tolist()
        other = sum(theirs != own for theirs, own in zip(called, ours, strict=True))
        yield f"{sum(called) / len(called):.1%} of {len(called):,}", str(other)
    upstream.close()


def answers(bundle: Path, documents: list[list[int]], url: str, most: int) -> Iterator[tuple[str, str, str]]:
    """For each budget: the calls of whole answers, and how many are word for word those of our own cascade."""
    loaded = load_bundle(bundle)
    assert loaded.delegation is not None
    record, tokenizer = loaded.delegation, loaded.tokenizer
    helper = open_bundled_helper(record, bundle, "cpu")
    config = record.cascade.model_copy(update={"call_score": "logit_margin", "rule": "fixed"})
    cascade = Cascade(loaded.model, tokenizer, helper, record.calibration, config)
    greedy = Sampling(
        temperature=0, max_tokens=ANSWER_TOKENS, stop_ids=frozenset({tokenizer.end_of_text_id, tokenizer.im_end_id})
    )
    prompts = [document[:PROMPT_TOKENS] for document in documents if len(document) > PROMPT_TOKENS][:most]
    with GatewayEngine(bundle, GatewayConfig(upstream=url)) as engine:
        for budget in BUDGETS:
            requests = [CascadeRequest(prompt, greedy, budget) for prompt in prompts]
            same = calls = decisions = failed = 0
            for prompt, ours in zip(prompts, cascade.answers(requests), strict=True):
                text, generation = _answered(engine, Request(prompt, ANSWER_TOKENS, 0.0, call_budget=budget))
                calls, decisions = calls + generation.calls, decisions + generation.decisions
                failed += generation.failed_calls + ours.summary.failed_calls  # of both: too late on a busy machine
                same += text == tokenizer.decode(ours.ids)
            yield f"{calls / decisions:.1%} of {decisions:,}", str(failed), f"{same} of {len(prompts)}"


def _answered(engine: GatewayEngine, request: Request) -> tuple[str, CascadeSummary]:
    arrived: queue.Queue[Delta | LacewingError] = queue.Queue()
    (generation,) = engine.submit([(request, arrived.put)])
    text = ""
    while True:
        delta = arrived.get()
        if isinstance(delta, LacewingError):
            raise delta
        text += delta.text
        if delta.finish is not None:
            return text, generation.summary


if __name__ == "__main__":
    main()
