"""The stage ``converse``: how well a model converses, alone and as a cascade, and what it has forgotten.

It is asked what no training conversation asked. Beside it stands its base, asked by beginnings of sentences: what the
weights hold, and how often a model that must say something invents.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from components.cascade.calibration import Calibration
from components.cascade.decoding import Cascade
from components.cascade.helpers import open_helper
from components.core.acceptance import accepted_section
from components.core.artifact import REPORT
from components.core.atomic import write_text
from components.core.run import Run
from components.data.chats.artifact import Chats
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.data.world.comprehension import World
from components.delegation.config import SELECTIONS_THAT_CALL, DelegationConfig
from components.evaluation.autocast import autocast, scoring_device
from components.evaluation.bootstrap import ratio_interval
from components.evaluation.heldout import chosen, first_shuffled, held_out
from components.evaluation.likelihood import score_documents
from components.evaluation.progress import progress
from components.evaluation.questions import Question, read_questions
from components.evaluation.report_page import markdown, page
from components.evaluation.results import Interval
from components.finetune.chat.artifact import Conversed
from components.finetune.chat.asking import Judge, ask, judged, prompted, said
from components.finetune.chat.config import ConverseConfig, ConverseStageConfig
from components.finetune.chat.report import report, title
from components.finetune.chat.results import ConverseResults, Forgetting, Said, Standing
from components.model.transformer import Transformer
from components.training.trained import TrainedModel

BASE = "base, by sentence beginnings"
MODEL = "conversing"


@dataclass(frozen=True)
class _Subjects:
    """What is asked, and who knows the truth."""

    openings: list[list[dict[str, str]]]
    questions: list[Question]
    """One for each opening, of the closed world; none of other conversations."""
    judge: Judge | None


def stage(
    run: Run,
    config: ConverseStageConfig,
    *,
    model: TrainedModel,
    base: TrainedModel,
    chats: Chats,
    prepared: PreparedData,
    calibration: Calibration,
) -> Conversed:
    """Ask ``model`` held-out questions of ``chats``, with its helper and without, beside ``base``.

    Raises ``ServiceError`` if the helper cannot be reached at the start.
    """
    tokenizer = chats.tokenizer()
    asked = _subjects(config.measure, chats)
    settings = DelegationConfig.of(model)
    asks = settings is not None and settings.selection in SELECTIONS_THAT_CALL
    device = scoring_device("auto")
    network, before = model.load(device), base.load(device)
    helper = open_helper(
        config.cascade.helper,
        tokenizer=chats.tokenizer_folder,
        facts=prepared.fact_table,
        corpus=prepared,
        index=run.folder / Conversed.RETRIEVAL,
        device=str(device),
    )
    with closing(helper):
        cascade = Cascade(
            network,
            tokenizer,
            helper,
            calibration.load(),
            config.cascade.model_copy(update={"call_score": "call" if asks else "entropy"}),
            shared_rule=True,
        )
        answers = list(_answers(run, config, cascade, before, tokenizer, asked))
        helper_name = helper.name
    results = ConverseResults(
        standings=[_standing(group, config.measure) for group in _grouped(answers)],
        budget=config.cascade.budget,
        forgetting=_forgetting(run, config.measure, before, network, prepared),
        asks=asks,
        helper=helper_name,
        confidence=config.measure.confidence,
    )
    _write(run, results, answers)
    metrics = _metrics(results)
    run.log(metrics, None)
    run.report(1.0, f"{metrics['well_formed']:.1%} of the answers are well formed")
    return run.seal(metrics, {"asks": asks, "helper": helper_name}, list(_rows(results)), view=Conversed)


def _subjects(cfg: ConverseConfig, chats: Chats) -> _Subjects:
    if chats.questions is not None and chats.fact_table is not None:
        questions = read_questions(chats.questions, cfg.max_questions)
        openings = [[{"role": "user", "content": question.question}] for question in questions]
        return _Subjects(openings, questions, Judge(World.load(chats.fact_table)))
    held = chats.held_out()
    chosen_ones = [held[number] for number in first_shuffled(len(held), cfg.max_questions)]
    return _Subjects([_opening(messages) for messages in chosen_ones], [], None)


def _opening(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """What stands before the assistant's first turn."""
    first = next(number for number, message in enumerate(messages) if message["role"] == "assistant")
    return messages[:first]


def _answers(
    run: Run,
    config: ConverseStageConfig,
    cascade: Cascade,
    base: Transformer,
    tokenizer: TextTokenizer,
    asked: _Subjects,
) -> Iterator[Said]:
    """Those of the base, then those of the model, one budget after the other."""
    if asked.judge is not None:
        with progress(run, "asking the base", 0.0, 0.1) as heard:
            yield from prompted(BASE, base, tokenizer, asked.questions, asked.judge, heard)
    budgets = sorted({0.0, *config.measure.budgets, config.cascade.budget})
    for number, budget in enumerate(budgets):
        begin, end = (0.1 + 0.8 * part / len(budgets) for part in (number, number + 1))
        with progress(run, f"asking the model, {budget:.0%} calls", begin, end) as heard:
            spoken = ask(cascade, asked.openings, budget, config.measure.answer_tokens, config.measure.batch, heard)
        for place, answer in enumerate(spoken):
            found = said(tokenizer, MODEL, budget, asked.openings[place][-1]["content"], answer)
            yield judged(asked.judge, asked.questions[place], found) if asked.judge else found


def _grouped(answers: Sequence[Said]) -> Iterator[list[Said]]:
    groups: dict[tuple[str, float], list[Said]] = {}
    for answer in answers:
        groups.setdefault((answer.model, answer.budget), []).append(answer)
    yield from groups.values()


def _standing(answers: Sequence[Said], cfg: ConverseConfig) -> Standing:
    known = answers[0].expected is not None
    decisions = sum(answer.decisions for answer in answers)
    return Standing(
        model=answers[0].model,
        budget=answers[0].budget,
        answers=len(answers),
        well_formed=_share([answer.well_formed for answer in answers], cfg),
        right=_share([bool(answer.right) for answer in answers], cfg) if known else None,
        wrong=_share([bool(answer.wrong) for answer in answers], cfg) if known else None,
        calls=sum(answer.calls for answer in answers) / max(1, decisions),
    )


def _share(of: Sequence[bool], cfg: ConverseConfig) -> Interval:
    return ratio_interval(np.array(of, dtype=np.float64), np.ones(len(of)), cfg)


def _forgetting(
    run: Run, cfg: ConverseConfig, before: Transformer, after: Transformer, prepared: PreparedData
) -> Forgetting:
    split, tokenizer = held_out(prepared.shards()), prepared.tokenizer()
    numbers = chosen(split.documents[:, 1], cfg.max_documents, split.n_tokens)
    documents = [split.document(number) for number in numbers.tolist()]
    sizes = split.documents[numbers, 2]
    bits = []
    for model, begin in ((before, 0.9), (after, 0.95)):
        with (
            progress(run, "scoring text of the pretraining", begin, begin + 0.05) as heard,
            autocast(model.output_weight.device, "auto"),
        ):
            scores = score_documents(model, documents, sizes, tokenizer.end_of_text_id, tokenizer.call_id, report=heard)
            bits.append(scores.bits_per_byte)
    return Forgetting(*bits)


def _write(run: Run, results: ConverseResults, answers: Sequence[Said]) -> None:
    lines = (json.dumps(answer.model_dump(), ensure_ascii=False) + "\n" for answer in answers)
    write_text(run.folder / Conversed.ANSWERS, "".join(lines))
    write_text(run.folder / Conversed.RESULTS, results.model_dump_json(indent=2) + "\n")
    sections = list(report(results, answers))
    write_text(run.folder / Conversed.PAGE, page(title(results), sections))
    write_text(run.folder / REPORT, markdown(title(results), sections) + accepted_section(run.accepted))


def _metrics(results: ConverseResults) -> dict[str, float]:
    alone, asked = results.at(0.0), results.at(results.budget)
    metrics = {
        "well_formed": alone.well_formed.estimate,
        "well_formed_cascade": asked.well_formed.estimate,
        "calls": asked.calls,
        "bits_per_byte_before": results.forgetting.before,
        "bits_per_byte_after": results.forgetting.after,
        "bits_per_byte_growth": results.forgetting.growth,
    }
    named = {"alone": alone, "cascade": asked}
    if results.standings[0].model == BASE:
        named["base"] = results.standings[0]
    for name, standing in named.items():
        if standing.right is not None and standing.wrong is not None:
            metrics |= {f"right_{name}": standing.right.estimate, f"wrong_{name}": standing.wrong.estimate}
    return metrics


def _rows(results: ConverseResults) -> Iterator[tuple[str, str]]:
    metrics: Mapping[str, float] = _metrics(results)
    yield "well-formed answers", f"{metrics['well_formed']:.1%} alone, {metrics['well_formed_cascade']:.1%} with calls"
    if "right_base" in metrics:
        right = [f"{metrics[f'right_{name}']:.1%}" for name in ("alone", "cascade", "base")]
        yield "questions answered", f"{right[0]} alone, {right[1]} with {metrics['calls']:.1%} calls; base {right[2]}"
        wrong = [f"{metrics[f'wrong_{name}']:.1%}" for name in ("alone", "cascade", "base")]
        yield "wrong claims", f"{wrong[0]} alone, {wrong[1]} with calls; base {wrong[2]}"
    yield (
        "text of the pretraining",
        f"{results.forgetting.before:.4f} bits per byte before, {results.forgetting.after:.4f} after "
        f"({results.forgetting.growth:+.1%})",
    )
