"""The stage ``choose``: of the texts that a teacher has written, those worth learning, as shards beside the corpus.

The two choices of the objective, by text instead of by token: texts of which the teacher was sure enough, and of them
those that the base expects least. Only the training split changes: bits per byte on the held-out splits compare with
those of any model of the same data.
"""

import re
import shutil
from collections.abc import Iterator, Sequence

import numpy as np

from components.core.errors import InputError
from components.core.run import Run
from components.data.encoder import Encoder
from components.data.prepared import PreparedData
from components.data.shards import ShardSet, ShardWriter, Split
from components.data.split import SPLITS, TRAIN
from components.evaluation.text_models.ours import LacewingModel
from components.finetune.distill.artifact import ChosenTexts, TeacherText, TeacherTexts
from components.finetune.distill.config import ChoiceConfig, ChooseConfig
from components.finetune.distill.writers import mean_logprobs
from components.training.trained import TrainedModel

# Where a text that ran into the limit may end: after a sentence, or a line.
_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s)|\n")


def stage(
    run: Run,
    config: ChooseConfig,
    *,
    prepared: PreparedData,
    texts: TeacherTexts,
    base: TrainedModel | None = None,
) -> ChosenTexts:
    """Choose from ``texts``, and write them as documents beside a part of the corpus of ``prepared``.

    ``base`` says what the student needs; it is only asked where not all texts are kept.

    Raises ``InputError`` if the teacher's confidence is asked for and not known, and if no text is left.
    """
    known = [each for each in texts.texts() if each.text.strip()]
    sure = _sure(known, config.choice)
    chosen = _needed(sure, config, base)
    documents = list(dict.fromkeys(map(document_of, chosen)))
    for leftover in (ChosenTexts.SHARDS, ChosenTexts.TOKENIZER):
        shutil.rmtree(run.folder / leftover, ignore_errors=True)
    shutil.copytree(prepared.tokenizer_folder, run.folder / ChosenTexts.TOKENIZER)
    written, replayed = _write(run, prepared, documents, config.replay)
    shards = ShardSet.open(run.folder / ChosenTexts.SHARDS)
    metrics = {
        "written": float(len(known)),
        "sure": float(len(sure)),
        "chosen": float(len(documents)),
        "chosen_tokens": float(written),
        "replayed_tokens": float(replayed),
    }
    row = f"{len(documents):,} of {len(known):,} texts, beside {replayed / (written + replayed):.0%} of corpus"
    details = {"vocab_size": shards.vocab_size}
    return run.seal(metrics, details, [("chosen to learn from", row)], view=ChosenTexts)


def document_of(text: TeacherText) -> str:
    """Prompt and text as a document. Of a text that ran into the limit, what follows its last whole sentence goes."""
    if text.ended:
        return text.prompt + text.text
    ends = [match.end() for match in _END.finditer(text.text + "\n")]
    whole = [end for end in ends if end <= len(text.text)]
    return text.prompt + (text.text[: whole[-1]].rstrip() if whole else text.text)


def _sure(texts: Sequence[TeacherText], choice: ChoiceConfig) -> list[TeacherText]:
    """Those that the teacher found likely enough."""
    if not choice.least_confidence:
        return list(texts)
    least = np.log(choice.least_confidence)
    if unknown := sum(each.logprob is None for each in texts):
        raise InputError(
            f"finetune.distill.choose.least_confidence={choice.least_confidence:g} asks how sure the teacher was, and "
            f"it did not tell of {unknown:,} of {len(texts):,} texts: take a server that gives log-probabilities (with "
            "finetune.distill.write.logprobs=true), or leave the choice out"
        )
    sure = [each for each in texts if each.logprob is not None and each.logprob >= least]
    if not sure:
        most = np.exp(max(each.logprob for each in texts if each.logprob is not None))
        raise InputError(
            f"finetune.distill.choose.least_confidence={choice.least_confidence:g} leaves no text: the surest of "
            f"{len(texts):,} has {most:.3f}"
        )
    return sure


def _needed(texts: Sequence[TeacherText], config: ChooseConfig, base: TrainedModel | None) -> list[TeacherText]:
    """Those that the base expects least, in their order."""
    if config.choice.need == 1:
        return list(texts)
    if base is None:
        raise InputError("finetune.distill.choose.need asks what a base expects, and none was given")
    model = LacewingModel.of_training(base, "the base", config.device)
    found = mean_logprobs(model, [each.prompt for each in texts], [each.text for each in texts])
    expected = np.array([0.0 if each is None else each for each in found])
    count = max(1, round(config.choice.need * len(texts)))
    return [texts[number] for number in sorted(np.argsort(expected, kind="stable")[:count].tolist())]


def _write(run: Run, prepared: PreparedData, documents: Sequence[str], replay: float) -> tuple[int, int]:
    """Shards of the texts and of the corpus; returns the training tokens of both."""
    tokenizer, corpus = prepared.tokenizer(), prepared.shards()
    run.report(0.5, f"writing {len(documents):,} texts")
    encoded = Encoder(tokenizer).encode(documents)
    written = sum(len(ids) + 1 for ids in encoded)
    replayed = 0
    with ShardWriter(run.folder / ChosenTexts.SHARDS, tokenizer.vocab_size, tokenizer.end_of_text_id) as shards:
        for ids, text in zip(encoded, documents, strict=True):
            shards.add(TRAIN, ids, len(text.encode()))
        for name in SPLITS:
            split = corpus.splits[name]
            for number in _replayed(split, written, replay) if name == TRAIN else range(split.n_documents):
                ids, n_bytes = split.document(number), int(split.documents[number, 2])
                shards.add(name, ids, n_bytes)
                replayed += len(ids) + 1 if name == TRAIN else 0
    return written, replayed


def _replayed(split: Split, written: int, share: float) -> Iterator[int]:
    """Numbers of documents, drawn once for all, until they are ``share`` of all training text, or there are no more."""
    left = share / (1 - share) * written
    for number in np.random.default_rng(0).permutation(split.n_documents).tolist():
        if left <= 0:
            return
        left -= int(split.documents[number, 1]) + 1
        yield number
