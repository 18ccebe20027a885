"""Stage ``assess``: how good is the trained model? Metrics, intervals, answers, samples and a report."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from components.core.acceptance import accepted_section
from components.core.artifact import REPORT
from components.core.atomic import write_text
from components.core.errors import ArtifactError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.evaluation.artifacts import Scores
from components.evaluation.autocast import autocast, scoring_device
from components.evaluation.bootstrap import ratio_interval
from components.evaluation.config import AssessConfig
from components.evaluation.curve import draw_loss_curves
from components.evaluation.heldout import chosen, first_shuffled, held_out
from components.evaluation.likelihood import DocumentScores, score_documents
from components.evaluation.progress import progress
from components.evaluation.questions import answer_questions, exact_match, read_questions
from components.evaluation.report import report_markdown
from components.evaluation.results import Answer, Results, Sample
from components.evaluation.samples import continue_documents
from components.model.transformer import Transformer
from components.training.names import TRAININGS
from components.training.trained import TrainedModel


def stage(
    run: Run,
    config: AssessConfig,
    *,
    model: TrainedModel,
    prepared: PreparedData,
    pretrained: TrainedModel | None = None,
) -> Scores:
    """Measure ``model`` on the test split of ``prepared``; the report shows the training of ``pretrained`` as well.

    Metrics: ``bits_per_byte`` with the ends of its interval, ``perplexity``, ``call_probability``, and with questions
    ``exact_match``, ``exact_match_head``, ``exact_match_tail``, ``questions``.
    """
    network = model.load(scoring_device(config.device))
    tokenizer = prepared.tokenizer()
    scores = _score(run, config, network, tokenizer, prepared)
    scores.save(run.folder / Scores.DOCUMENTS)
    if not np.isfinite(scores.perplexity):
        raise ArtifactError(
            f"the model in {model.folder} gives no finite likelihood to held-out text: its training diverged. "
            "Train again with a lower trainer.learning_rate."
        )
    answers = _answer(run, config, network, tokenizer, prepared)
    samples = _sample(run, config, network, tokenizer, prepared)
    results = _results(config, scores, answers, samples)
    given = [each for each in (pretrained, model) if each is not None]
    trained = [each for each in given if TrainedModel.HISTORY in each.record.files]  # weights from elsewhere have none
    trainings = {TRAININGS.get(each.stage, "training"): each for each in trained}
    draw_loss_curves(
        {name: each.history() for name, each in trainings.items()},
        f"{results.bits_per_byte.estimate:.3f} bits per byte on held-out text",
        [run.folder / Scores.CURVE_PNG, run.folder / Scores.CURVE_SVG],
    )
    write_text(
        run.folder / REPORT,
        report_markdown(results, trainings, prepared, Scores.CURVE_PNG) + accepted_section(run.accepted),
    )
    metrics = _metrics(results)
    run.log(metrics, None)
    run.report(1.0, f"{metrics['bits_per_byte']:.4f} bits per byte")
    details = results.model_dump(mode="json", exclude={"answers", "samples"})
    return run.seal(metrics, details, list(_rows(metrics)), view=Scores)


def _rows(metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    yield "bits per byte", f"{metrics['bits_per_byte']:.4f} on held-out text"
    if "exact_match" in metrics:
        yield "questions answered", f"{metrics['exact_match']:.1%} of {metrics['questions']:,.0f}"


def _score(
    run: Run, cfg: AssessConfig, model: Transformer, tokenizer: TextTokenizer, prepared: PreparedData
) -> DocumentScores:
    split = held_out(prepared.shards())
    indices = chosen(split.documents[:, 1], cfg.max_documents, cfg.max_tokens)
    with (
        autocast(model.output_weight.device, cfg.precision),
        progress(run, "scoring held-out text", 0.0, 0.7) as report,
    ):
        return score_documents(
            model,
            [split.document(i) for i in indices.tolist()],
            split.documents[indices, 2],
            tokenizer.end_of_text_id,
            tokenizer.call_id,
            cfg.batch_tokens,
            report,
        )


def _answer(
    run: Run, cfg: AssessConfig, model: Transformer, tokenizer: TextTokenizer, prepared: PreparedData
) -> list[Answer]:
    if prepared.questions is None or not cfg.questions.max_questions:
        return []
    questions = read_questions(prepared.questions, cfg.questions.max_questions)
    with progress(run, "answering questions", 0.7, 0.9) as report:
        answers = answer_questions(model, tokenizer, questions, cfg.questions.batch_questions, report)
    _write_lines(run.folder / Scores.ANSWERS, answers)
    return answers


def _sample(
    run: Run, cfg: AssessConfig, model: Transformer, tokenizer: TextTokenizer, prepared: PreparedData
) -> list[Sample]:
    split = held_out(prepared.shards())
    texts = list(prepared.texts(split.name, first_shuffled(split.n_documents, cfg.samples.count)))
    with progress(run, "writing samples", 0.9, 0.99) as report:
        samples = continue_documents(model, tokenizer, texts, cfg.samples, report)
    _write_lines(run.folder / Scores.SAMPLES, samples)
    return samples


def _results(cfg: AssessConfig, scores: DocumentScores, answers: list[Answer], samples: list[Sample]) -> Results:
    return Results(
        documents=len(scores.nats),
        bytes=int(scores.bytes.sum()),
        predictions=int(scores.tokens.sum()),
        confidence=cfg.confidence,
        bits_per_byte=ratio_interval(scores.bits, scores.bytes.astype(np.float64), cfg),
        perplexity=scores.perplexity,
        call_probability=scores.call_probability,
        exact_match=exact_match(answers, cfg),
        answers=answers,
        samples=samples,
    )


def _metrics(results: Results) -> dict[str, float]:
    metrics = {
        "bits_per_byte": results.bits_per_byte.estimate,
        "bits_per_byte_low": results.bits_per_byte.low,
        "bits_per_byte_high": results.bits_per_byte.high,
        "perplexity": results.perplexity,
        "call_probability": results.call_probability,
    }
    for part, match in results.exact_match.items():
        metrics["exact_match" if part == "all" else f"exact_match_{part}"] = match.share.estimate
    if results.answers:
        metrics["questions"] = float(len(results.answers))
    return metrics


def _write_lines(path: Path, records: Sequence[BaseModel]) -> None:
    write_text(path, "".join(json.dumps(record.model_dump(), ensure_ascii=False) + "\n" for record in records))
