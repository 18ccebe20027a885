"""May the challenger take the champion's place? Both models score the same held-out text; ``decision`` says who wins.

The documents are those of the challenger's test split, compared as text, each model with its own tokenizer, so that
models with different vocabularies compare in bits per byte.
"""

from collections.abc import Sequence
from dataclasses import asdict

from components.core.artifact import Artifact
from components.core.atomic import write_json
from components.core.run import Run
from components.data.shards import ShardSet
from components.data.tokenizer import TextTokenizer
from components.evaluation.autocast import autocast, scoring_device
from components.evaluation.config import GateConfig
from components.evaluation.decision import decide
from components.evaluation.heldout import chosen, held_out
from components.evaluation.likelihood import DocumentScores, score_documents
from components.evaluation.progress import progress
from components.model.checkpoint import load_model


def stage(
    run: Run, cfg: GateConfig, bundle: Artifact, prepared: Artifact, champion_bundle: Artifact | None = None
) -> Artifact:
    """Decide whether the model in ``bundle`` may be promoted; writes ``decision.json``.

    Metrics: those of ``Decision`` that exist. Details: ``promote`` and ``reason``. A refusal is a result, not an error.
    """
    texts = _held_out_texts(prepared, cfg)
    middle = 0.5 if champion_bundle else 0.98
    challenger = _scores(run, cfg, bundle, texts, "scoring the challenger", 0.0, middle)
    champion = (
        _scores(run, cfg, champion_bundle, texts, "scoring the champion", middle, 0.98) if champion_bundle else None
    )
    decision = decide(challenger, champion, cfg)
    write_json(run.folder / "decision.json", asdict(decision))
    run.log(decision.metrics, None)
    run.report(1.0, decision.reason)
    return run.seal(metrics=decision.metrics, details={"promote": decision.promote, "reason": decision.reason})


def _held_out_texts(prepared: Artifact, cfg: GateConfig) -> list[str]:
    split = held_out(ShardSet.open(prepared.path("shards")))
    tokenizer = TextTokenizer.load(prepared.path("tokenizer"))
    indices = chosen(split.documents[:, 1], cfg.max_documents, cfg.max_tokens)
    return [tokenizer.decode(split.document(i).tolist()) for i in indices.tolist()]


def _scores(
    run: Run, cfg: GateConfig, bundle: Artifact, texts: Sequence[str], message: str, begin: float, end: float
) -> DocumentScores:
    device = scoring_device(cfg.device)
    model = load_model(bundle.verify().folder, device)
    tokenizer = TextTokenizer.load(bundle.folder)
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
