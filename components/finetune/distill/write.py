"""The stage ``write``: a teacher goes on from the beginnings of training documents.

What a server answers cannot be computed again, and may have been paid for. So every answer is on disk before the next
request is sent, an interrupted stage asks only for what is missing, and later stages depend on the texts themselves,
not on who was asked for them. An artifact that is there is never made again, whatever the server would say today.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import mean

import numpy as np

from components.core.artifact import CHECKPOINTS
from components.core.atomic import full_disk_explained, write_text
from components.core.errors import InputError, ServiceError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.shards import Split
from components.data.split import TRAIN
from components.data.tokenizer import TextTokenizer
from components.finetune.distill.artifact import TeacherText, TeacherTexts, read_texts
from components.finetune.distill.config import WriteConfig, WriteSettings
from components.finetune.distill.writers import Writer, opened_writer
from components.model.bundle import Bundle
from components.training.trained import TrainedModel


def stage(
    run: Run,
    config: WriteConfig,
    *,
    prepared: PreparedData,
    bundle: Bundle | None = None,
    trained: TrainedModel | None = None,
) -> TeacherTexts:
    """Have the teacher of ``config``, or the given model, write a text after each beginning.

    Raises ``InputError`` without a teacher, for one that does not fit, if no document is long enough, and if nothing
    was written at all; ``ServiceError`` if a server does not answer. What it has answered is kept.
    """
    if not (config.teacher or bundle or trained):
        raise InputError(
            "finetune.distill.teacher names no model: give a registered one, such as champion, the folder of one, or "
            "the address of a server"
        )
    prompts = list(prompts_of(prepared, config.ask))
    answers = run.folder / TeacherTexts.ANSWERS
    began, before = time.perf_counter(), len(_kept(answers))
    if before < len(prompts):
        with opened_writer(config, bundle, trained) as writer:
            _ask(run, writer, prompts, config.ask, answers)
    texts = sorted(read_texts(answers), key=lambda each: each.number)
    _check(texts, config)
    write_text(run.folder / TeacherTexts.TEXTS, "".join(each.model_dump_json() + "\n" for each in texts))
    sealed = _sealed(run, texts, len(texts) - before, time.perf_counter() - began)
    shutil.rmtree(run.folder / CHECKPOINTS)
    return sealed


def prompts_of(prepared: PreparedData, ask: WriteSettings) -> Iterator[str]:
    """Beginnings of training documents, drawn by the seed; each ends with a whole word.

    Documents are taken again where there are too few of them, unless the teacher would write the same again. Raises
    ``InputError`` if no document is longer than a beginning.
    """
    split, tokenizer = prepared.shards().splits[TRAIN], prepared.tokenizer()
    order = np.random.default_rng(ask.seed).permutation(split.n_documents).tolist()
    beginnings = (_beginning(split, number, tokenizer, ask) for number in order)
    found = list(islice(filter(None, beginnings), ask.prompts))
    if not found:
        raise InputError(
            f"none of the {split.n_documents:,} training documents is longer than "
            f"finetune.distill.write.prompt_tokens={ask.prompt_tokens}: lower it"
        )
    rounds = -(-ask.prompts // len(found)) if ask.temperature else 1
    yield from (found * rounds)[: ask.prompts]


def _beginning(split: Split, number: int, tokenizer: TextTokenizer, ask: WriteSettings) -> str:
    """The first whole words of a document; empty for one that is too short, or has no whole word there."""
    ids = split.document(number)[: ask.prompt_tokens + 1].tolist()
    if len(ids) <= ask.prompt_tokens:
        return ""
    text, after = tokenizer.decode(ids[:-1]), tokenizer.decode(ids[-1:])
    if not after[:1].isspace() and " " in text:
        text = text[: text.rindex(" ")]
    return text.rstrip(" \ufffd")


def _ask(run: Run, writer: Writer, prompts: Sequence[str], ask: WriteSettings, path: Path) -> None:
    """Ask for what ``path`` does not hold yet, and add it there, request by request."""
    kept = _kept(path)
    _without_half_a_line(path)
    done = len(kept)
    for first in range(0, len(prompts), ask.texts_at_once):
        last = min(first + ask.texts_at_once, len(prompts))
        group = [number for number in range(first, last) if number not in kept]
        if not group:
            continue
        run.report(done / len(prompts), f"{done:,} of {len(prompts):,} texts written")
        try:
            answers = writer.answers([prompts[number] for number in group], ask.seed * len(prompts) + group[0])
        except ServiceError as error:
            raise ServiceError(
                f"{error}. {done:,} of {len(prompts):,} texts are kept: the same command asks for the others"
            ) from error
        texts = [
            TeacherText(number=number, prompt=prompts[number], **answer._asdict())
            for number, answer in zip(group, answers, strict=True)
        ]
        _append(path, texts)
        done += len(texts)


def _kept(path: Path) -> set[int]:
    """The numbers of the texts that have been answered."""
    return {each.number for each in read_texts(path)}


def _without_half_a_line(path: Path) -> None:
    """Cut off what a kill has left of a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _append(path: Path, texts: Sequence[TeacherText]) -> None:
    """Add lines to the file, on disk before this returns."""
    with full_disk_explained(path), path.open("ab") as file:
        file.write("".join(each.model_dump_json() + "\n" for each in texts).encode())
        file.flush()
        os.fsync(file.fileno())


def _check(texts: Sequence[TeacherText], config: WriteConfig) -> None:
    if not any(each.text.strip() for each in texts):
        raise InputError(
            f"the teacher wrote nothing after any of {len(texts):,} beginnings, the first of which is "
            f"{texts[0].prompt!r}: is {config.teacher or 'it'} a model that goes on from text? Another "
            "finetune.distill.write.seed asks again"
        )


def _sealed(run: Run, texts: Sequence[TeacherText], asked: int, seconds: float) -> TeacherTexts:
    written = [each for each in texts if each.text.strip()]
    known = [each.logprob for each in written if each.logprob is not None]
    tokens = sum(each.tokens for each in texts)
    metrics = {
        "texts": float(len(written)),
        "empty": float(len(texts) - len(written)),
        "tokens": float(tokens),
        "ended": mean(each.ended for each in written),
        "asked": float(asked),
        "seconds": seconds,
        **({"confidence": float(np.exp(mean(known)))} if known else {}),
    }
    empty = f"; {len(texts) - len(written):,} are empty" if len(written) < len(texts) else ""
    row = f"{len(written):,} texts of {tokens:,} tokens{empty}"
    return run.seal(metrics, rows=[("written by the teacher", row)], view=TeacherTexts)
