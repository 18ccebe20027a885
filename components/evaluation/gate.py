"""May the challenger take the champion's place? Both models score the same held-out text; ``decision`` says who wins.

The documents are those of the challenger's test split, compared as text, each model with its own tokenizer, so that
models with different vocabularies compare in bits per byte.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

from components.core.atomic import write_json
from components.core.run import Run
from components.data.prepared import PreparedData
from components.evaluation.artifacts import GateDecision
from components.evaluation.autocast import autocast, scoring_device
from components.evaluation.config import GateConfig
from components.evaluation.decision import decide
from components.evaluation.heldout import chosen, held_out
from components.evaluation.likelihood import DocumentScores, score_documents
from components.evaluation.progress import progress
from components.model.bundle import Bundle


def stage(
    run: Run, config: GateConfig, *, bundle: Bundle, prepared: PreparedData, champion: Bundle | None = None
) -> GateDecision:
    """Decide whether the model in ``bundle`` may be promoted over ``champion``.

    Metrics: those of ``Decision`` that exist. Details: ``promote`` and ``reason``. A refusal is a result, not an error.
    """
    texts = _held_out_texts(prepared, config)
    middle = 0.5 if champion else 0.98
    challenging = _scores(run, config, bundle, texts, "scoring the challenger", 0.0, middle)
    defending = _scores(run, config, champion, texts, "scoring the champion", middle, 0.98) if champion else None
    decision = decide(challenging, defending, config)
    if run.accepted:  # whoever reads the reason must know what the comparison rests on
        decision = replace(decision, reason="; ".join([decision.reason, *map(str, run.accepted)]))
    write_json(run.folder / GateDecision.DECISION, asdict(decision))
    run.log(decision.metrics, None)
    run.report(1.0, decision.reason)
    return run.seal(decision.metrics, {"promote": decision.promote, "reason": decision.reason}, view=GateDecision)


def _held_out_texts(prepared: PreparedData, cfg: GateConfig) -> list[str]:
    split = held_out(prepared.shards())
    indices = chosen(split.documents[:, 1], cfg.max_documents, cfg.max_tokens)
    return list(prepared.texts(split.name, indices.tolist()))


def _scores(
    run: Run, cfg: GateConfig, bundle: Bundle, texts: Sequence[str], message: str, begin: float, end: float
) -> DocumentScores:
    device = scoring_device(cfg.device)
    model = bundle.load(device)
    tokenizer = bundle.tokenizer()
    with autocast(device, cfg.precision), progress(run, message, begin, end) as report:
        return score_documents(
            model,
            tokenizer.encode_batch(texts),
            [len(text.encode()) for text in texts],
            tokenizer.end_of_text_id,
            tokenizer.call_id,
            cfg.batch_tokens,
            report,
        )
