"""The stage ``assess-preference``: which answers the model prefers on pairs that it has not seen, and at what price."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from components.core.acceptance import accepted_section
from components.core.artifact import REPORT
from components.core.atomic import write_text
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.split import TEST
from components.evaluation.autocast import autocast, scoring_device
from components.evaluation.bootstrap import difference_interval, ratio_interval
from components.evaluation.heldout import chosen, held_out
from components.evaluation.likelihood import DocumentScores, score_documents
from components.evaluation.progress import progress
from components.evaluation.report_page import markdown, page
from components.finetune.preference.artifact import Pairs, PreferenceAssessment, References
from components.finetune.preference.config import AssessPreferenceConfig
from components.finetune.preference.log_probabilities import scored
from components.finetune.preference.report import TITLE, report
from components.finetune.preference.results import PreferenceResults, ScoredPair
from components.model.transformer import Transformer
from components.training.trained import TrainedModel


def stage(
    run: Run,
    config: AssessPreferenceConfig,
    *,
    model: TrainedModel,
    base: TrainedModel,
    pairs: Pairs,
    reference: References,
    prepared: PreparedData,
) -> PreferenceAssessment:
    """Measure ``model`` on the held-out ``pairs`` and on the held-out text of ``prepared``, beside its ``base``.

    Metrics: ``preference_accuracy``, ``base_accuracy``, ``longer_wins``, ``reward_accuracy``, ``over_longer_wins`` with
    the ends of its interval, ``bits_per_byte``, ``base_bits_per_byte`` and ``bits_per_byte_change``.
    """
    network = model.load(scoring_device(config.device))
    compared = list(_compared(run, config, network, pairs, reference))
    text = _text(run, config, network, prepared, 0.3, 0.6)
    base_text = _text(run, config, base.load(scoring_device(config.device)), prepared, 0.6, 0.9)
    results = _results(config, compared, text, base_text)
    lines = "".join(each.model_dump_json() + "\n" for each in compared)
    write_text(run.folder / PreferenceAssessment.PREFERENCES, lines)
    sections = list(report(results, compared, model.history(), config.examples))
    write_text(run.folder / PreferenceAssessment.PAGE, page(TITLE, sections))
    write_text(run.folder / REPORT, markdown(TITLE, sections) + accepted_section(run.accepted))
    metrics = results.metrics()
    run.log(metrics, None)
    return run.seal(metrics, results.model_dump(mode="json"), list(_rows(results)), view=PreferenceAssessment)


def _compared(
    run: Run, cfg: AssessPreferenceConfig, model: Transformer, pairs: Pairs, reference: References
) -> Iterator[ScoredPair]:
    """Every held-out pair with its margins, in the order of the shards."""
    columns = {**pairs.columns(), **reference.columns(pairs)}
    records = iter(pairs.records(TEST))
    with (
        autocast(model.output_weight.device, cfg.precision),
        progress(run, "comparing answers", 0.0, 0.3) as report,
    ):
        for _, scores in scored(model, pairs, TEST, columns, cfg.batch_windows, report):
            margins = scores.margin(per_token=False)[scores.valid].tolist()
            gains = scores.gain(per_token=False)[scores.valid].tolist()
            for margin, gain in zip(margins, gains, strict=True):
                yield ScoredPair(pair=next(records), margin=margin, base_margin=margin - gain)


def _text(
    run: Run, cfg: AssessPreferenceConfig, model: Transformer, prepared: PreparedData, begin: float, end: float
) -> DocumentScores:
    split, special = held_out(prepared.shards()), prepared.tokenizer().special
    indices = chosen(split.documents[:, 1], cfg.max_documents, cfg.max_tokens)
    documents = [split.document(i) for i in indices.tolist()]
    with (
        autocast(model.output_weight.device, cfg.precision),
        progress(run, "scoring held-out text", begin, end) as report,
    ):
        return score_documents(
            model, documents, split.documents[indices, 2], special.end_of_text, special.call, cfg.batch_tokens, report
        )


def _results(
    cfg: AssessPreferenceConfig, compared: list[ScoredPair], model: DocumentScores, base: DocumentScores
) -> PreferenceResults:
    groups = {each.pair.group: number for number, each in enumerate(compared)}
    group = np.unique([groups[each.pair.group] for each in compared], return_inverse=True)[1]

    def counted(values: Sequence[float]) -> Float[np.ndarray, " groups"]:
        return np.bincount(group, weights=np.array(values, dtype=np.float64))

    pairs = counted([1.0] * len(compared))
    right = counted([each.margin > 0 for each in compared])
    base_right = counted([each.base_margin > 0 for each in compared])
    longer = counted([each.pair.chosen_is_longer for each in compared])
    return PreferenceResults(
        pairs=len(compared),
        groups=len(groups),
        confidence=cfg.confidence,
        accuracy=ratio_interval(right, pairs, cfg),
        base_accuracy=ratio_interval(base_right, pairs, cfg),
        longer_wins=ratio_interval(longer, pairs, cfg),
        reward_accuracy=ratio_interval(counted([each.margin > each.base_margin for each in compared]), pairs, cfg),
        over_longer_wins=difference_interval((right, pairs), (longer, pairs), cfg),
        over_base=difference_interval((right, pairs), (base_right, pairs), cfg),
        bits_per_byte=model.bits_per_byte,
        base_bits_per_byte=base.bits_per_byte,
        call_probability=model.call_probability,
        base_call_probability=base.call_probability,
    )


def _rows(results: PreferenceResults) -> Iterator[tuple[str, str]]:
    yield (
        "prefers the chosen answer",
        f"{results.accuracy.estimate:.1%} of {results.pairs:,} pairs; base {results.base_accuracy.estimate:.1%}, "
        f"the longer answer {results.longer_wins.estimate:.1%}",
    )
    yield "bits per byte", f"{results.bits_per_byte:.4f} on held-out text, {results.bits_per_byte_change:+.1%}"
