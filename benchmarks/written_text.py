"""Is text that a teacher writes worth learning? ``python -m benchmarks.written_text --prepared DATA --teacher MODEL``.

A small student is trained from scratch, for as many steps each time: on its corpus alone, on what a teacher wrote, on
both, and on the corpus with all that the teacher expects (white-box). With ``--choices``, half of the written texts are
also chosen: by the need of a base (the student that learnt the corpus alone), by the confidence of the teacher, and at
random. ``--corpus`` leaves the student a part of the corpus only, from which the teacher's prompts are drawn as well;
the teacher has read all of it. What the folder holds that the teacher has written is not written again. Every student
ends with the weights of its best validation. One line for each: bits per byte on the test split, mean and standard
deviation over seeds.
"""

import argparse
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np

from components.core.artifact import RECORD
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.shards import ShardWriter
from components.data.split import SPLITS, TEST, TRAIN
from components.evaluation.text_models.ours import LacewingModel
from components.finetune.distill.artifact import TeacherTexts, Teaching
from components.finetune.distill.choose import stage as choose
from components.finetune.distill.config import ChooseConfig, DistillStageConfig, TeachConfig, WriteConfig, WriteSettings
from components.finetune.distill.teach import stage as teach
from components.finetune.distill.train import stage as distill
from components.finetune.distill.write import stage as write
from components.model.config import ModelConfig
from components.training.config import TrainerConfig
from components.training.trained import TrainedModel

STUDENT = ModelConfig(name="student", layers=1, width=64, hidden_width=256, heads=1, kv_heads=1)
ALL = 0.999  # of the corpus, beside the written text


def main() -> None:
    """Write, teach, train, and print a line for each student."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepared", type=Path, required=True, help="artifact of the stage prepare")
    parser.add_argument("--teacher", type=Path, required=True, help="artifact of the stage pretrain")
    parser.add_argument("--folder", type=Path, default=Path("build/written_text"), help="where all of it is kept")
    parser.add_argument("--corpus", type=float, default=1.0, help="share of the training documents for the student")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--choices", action="store_true", help="also choose half of the texts")
    given = parser.parse_args()
    data = part_of(PreparedData.open(given.prepared), given.corpus, given.folder / "corpus")
    teacher = TrainedModel.open(given.teacher)
    texts = written(data, teacher, given.prompts, given.folder / "write")
    expected = taught(data, teacher, given.folder / "teach")
    base = student(data, given.steps, 0, given.folder / "base") if given.choices else None
    learnt: dict[str, tuple[PreparedData, Teaching | None]] = {
        "corpus alone": (data, None),
        "corpus, white-box": (data, expected),
        **{name: (each, None) for name, each in mixtures(data, texts, base, given.folder / "choose").items()},
    }
    found: dict[str, list[float]] = {name: [] for name in learnt}
    for seed in range(given.seeds):
        for name, (text, teaching) in learnt.items():
            made = student(text, given.steps, seed, given.folder / "student", teaching)
            found[name].append(bits_per_byte(made, data))
            print(
                f"{name:40} seed {seed}: {found[name][-1]:.4f}, best at step {made.metrics['kept_step']:.0f}",
                flush=True,
            )
    for name, bits in found.items():
        print(f"{name:40} {mean(bits):.4f} ± {stdev(bits) if len(bits) > 1 else 0:.4f} bits per byte")


def part_of(prepared: PreparedData, share: float, folder: Path) -> PreparedData:
    """The same data with ``share`` of the training documents, drawn once for all."""
    if share == 1:
        return prepared
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(prepared.tokenizer_folder, folder / PreparedData.TOKENIZER)
    shards = prepared.shards()
    with ShardWriter(folder / PreparedData.SHARDS, shards.vocab_size, shards.boundary_id) as writer:
        for name in SPLITS:
            split = shards.splits[name]
            order = np.random.default_rng(1).permutation(split.n_documents).tolist()
            for number in order[: round(share * len(order))] if name == TRAIN else range(split.n_documents):
                writer.add(name, split.document(number), int(split.documents[number, 2]))
    return Run.local(folder, "prepare").seal({}, {"vocab_size": shards.vocab_size}, view=PreparedData)


def written(data: PreparedData, teacher: TrainedModel, prompts: int, folder: Path) -> TeacherTexts:
    """What the teacher writes, or has written there before."""
    if (folder / RECORD).is_file():
        return TeacherTexts.open(folder)
    config = WriteConfig(ask=WriteSettings(prompts=prompts, texts_at_once=64))
    began = time.process_time()
    made = write(Run.local(folder, "write"), config, prepared=data, trained=teacher)
    print(f"written: {made.record.rows[0][1]}, {time.process_time() - began:.0f} s of CPU time, {made.metrics}")
    return made


def taught(data: PreparedData, teacher: TrainedModel, folder: Path) -> Teaching:
    """What the teacher expects of every token."""
    config = TeachConfig(teacher=str(teacher.folder), context_length=STUDENT.context_length)
    return teach(Run.local(folder, "teach"), config, prepared=data)


def mixtures(
    data: PreparedData, texts: TeacherTexts, base: TrainedModel | None, folder: Path
) -> Mapping[str, PreparedData]:
    """Training text by name; with ``base``, also of chosen texts."""
    sure = float(np.exp(median(each.logprob for each in texts.texts() if each.logprob is not None)))
    settings: dict[str, tuple[TeacherTexts, dict[str, object]]] = {
        "written alone": (texts, {"replay": 0.0}),
        "corpus and written": (texts, {}),
    }
    if base is not None:
        settings |= {
            "corpus and half of it, by need": (texts, {"choice": {"need": 0.5}}),
            "corpus and half of it, by confidence": (texts, {"choice": {"least_confidence": sure}}),
            "corpus and half of it, at random": (half(texts, folder / "half"), {}),
        }
    made = {}
    for number, (name, (chosen, changes)) in enumerate(settings.items()):
        config = ChooseConfig.model_validate({"replay": ALL, **changes})
        made[name] = choose(Run.local(folder / str(number), "choose"), config, prepared=data, texts=chosen, base=base)
        print(f"{name}: {made[name].metrics}")
    return made


def half(texts: TeacherTexts, folder: Path) -> TeacherTexts:
    """Half of ``texts``, at random: their prompts were drawn at random."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = texts.path(TeacherTexts.TEXTS).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / TeacherTexts.TEXTS).write_text("".join(lines[: len(lines) // 2]), encoding="utf-8")
    return Run.local(folder, "write").seal({}, view=TeacherTexts)


def student(data: PreparedData, steps: int, seed: int, folder: Path, teaching: Teaching | None = None) -> TrainedModel:
    """A new student, trained on ``data`` and on what ``teaching`` says of it."""
    shutil.rmtree(folder, ignore_errors=True)
    trainer = TrainerConfig(
        max_steps=steps, seed=seed, threads=1, keep="best", validate_every_steps=max(1, steps // 10)
    )
    config = DistillStageConfig(model=STUDENT, trainer=trainer)
    return distill(Run.local(folder, "distill"), config, prepared=data, teaching=teaching)


def bits_per_byte(model: TrainedModel, data: PreparedData) -> float:
    """On the documents of the test split, each by itself."""
    texts = list(data.texts(TEST, range(data.shards().splits[TEST].n_documents)))
    scores = LacewingModel.of_training(model, "student").token_scores(texts)
    nats = sum(float(each.nats.sum()) for each in scores)
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


if __name__ == "__main__":
    main()
