"""The stage ``choose``, and a student that learns what it has chosen."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.errors import InputError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.split import TEST, TRAIN, VALIDATION
from components.evaluation.text_models.ours import LacewingModel
from components.finetune.distill.artifact import ChosenTexts, TeacherText, TeacherTexts
from components.finetune.distill.choose import document_of, stage
from components.finetune.distill.config import ChooseConfig, DistillStageConfig
from components.finetune.distill.train import stage as train
from components.finetune.distill.writers import mean_logprobs
from components.model.checkpoint import load_model
from components.training.trained import TrainedModel
from tests.finetune.distill.conftest import TEACHER, TRAINER

PROMPT = "The river runs"
TEXTS = [
    " from the old mountain to the quiet sea.",
    " on foot, and children wrote three books of oak.",
    "",
    " zx qv kw jjj.",
    " from the old mountain to the quiet sea.",
    " in winter.",
]
LOGPROBS = [-0.1, -1.0, None, -3.0, -0.2, -0.5]


def line(number: int, **changes: Any) -> TeacherText:
    values = {"number": number, "prompt": PROMPT, "tokens": 5, "ended": True}
    return TeacherText.model_validate({**values, "text": TEXTS[number], "logprob": LOGPROBS[number], **changes})


def told(folder: Path, **changes: Any) -> TeacherTexts:
    folder.mkdir()
    lines = [line(number, **changes).model_dump_json() + "\n" for number in range(len(TEXTS))]
    (folder / TeacherTexts.TEXTS).write_text("".join(lines))
    return Run.local(folder, "write").seal({}, view=TeacherTexts)


def chosen(
    tmp_path: Path, prepared: PreparedData, base: TrainedModel | None = None, replay: float = 0.0, **choice: Any
) -> ChosenTexts:
    config = ChooseConfig.model_validate({"choice": choice, "replay": replay})
    run = Run.local(tmp_path / "chosen", "choose")
    return stage(run, config, prepared=prepared, texts=told(tmp_path / "told"), base=base)


def documents(data: PreparedData, split: str = TRAIN) -> list[str]:
    return list(data.texts(split, range(data.shards().splits[split].n_documents)))


def test_texts_become_documents_once_each_and_held_out_text_stays(tmp_path: Path, prepared: PreparedData) -> None:
    made = chosen(tmp_path, prepared)
    assert documents(made) == [PROMPT + TEXTS[number] for number in (0, 1, 3, 5)]
    for split in (VALIDATION, TEST):
        assert documents(made, split) == documents(prepared, split)
        held_out = [each.shards().splits[split] for each in (made, prepared)]
        np.testing.assert_array_equal(held_out[0].documents, held_out[1].documents)
    assert made.tokenizer_digest() == prepared.tokenizer_digest()
    assert (made.metrics["written"], made.metrics["chosen"]) == (5, 4)


def test_texts_that_ran_into_the_limit_end_with_a_sentence() -> None:
    cut = line(0, text=' of "oak." It ran 3.5 km to the', ended=False)
    assert document_of(cut) == f'{PROMPT} of "oak."'
    assert document_of(line(0, text=" 3.5 km to the", ended=False)) == f"{PROMPT} 3.5 km to the"
    assert document_of(line(0, text=" so far.", ended=False)) == f"{PROMPT} so far."


def test_a_part_of_the_corpus_stands_beside_them(tmp_path: Path, prepared: PreparedData) -> None:
    made = chosen(tmp_path, prepared, replay=0.5)
    split = made.shards().splits[TRAIN]
    assert split.n_tokens == made.metrics["chosen_tokens"] + made.metrics["replayed_tokens"]
    longest = int(prepared.shards().splits[TRAIN].documents[:, 1].max()) + 1
    assert 0 <= made.metrics["replayed_tokens"] - made.metrics["chosen_tokens"] < longest
    assert set(documents(made)[4:]) <= set(documents(prepared))


def test_all_of_the_corpus_is_the_most_there_is(tmp_path: Path, prepared: PreparedData) -> None:
    made = chosen(tmp_path, prepared, replay=0.999)
    assert sorted(documents(made)[4:]) == sorted(documents(prepared))


def test_only_sure_texts_are_kept(tmp_path: Path, prepared: PreparedData) -> None:
    made = chosen(tmp_path, prepared, least_confidence=math.exp(-0.6))
    assert documents(made) == [PROMPT + TEXTS[0], PROMPT + TEXTS[5]]
    config = ChooseConfig.model_validate({"choice": {"least_confidence": 0.99}})
    texts = TeacherTexts.open(tmp_path / "told")
    with pytest.raises(InputError, match=r"least_confidence=0\.99 leaves no text: the surest of 5 has 0\.905"):
        stage(Run.local(tmp_path / "none"), config, prepared=prepared, texts=texts)


def test_a_teacher_that_did_not_say_how_sure_it_was_cannot_be_chosen_by_it(
    tmp_path: Path, prepared: PreparedData
) -> None:
    config = ChooseConfig.model_validate({"choice": {"least_confidence": 0.1}})
    silent = told(tmp_path / "told", logprob=None)
    with pytest.raises(InputError, match=r"it did not tell of 5 of 5 texts: .*logprobs=true"):
        stage(Run.local(tmp_path / "chosen"), config, prepared=prepared, texts=silent)


def test_the_texts_that_the_base_expects_least_are_needed(
    tmp_path: Path, prepared: PreparedData, teacher: TrainedModel
) -> None:
    made = chosen(tmp_path, prepared, teacher, need=0.4)
    texts = [TEXTS[number] for number in (0, 1, 3, 4, 5)]
    expected = mean_logprobs(LacewingModel.of_training(teacher, "base"), [PROMPT] * 5, texts)
    least = sorted(range(5), key=lambda number: expected[number] or 0.0)[:2]
    assert documents(made) == [PROMPT + texts[number] for number in sorted(least)]
    assert PROMPT + TEXTS[3] in documents(made)


def test_a_student_learns_the_text_alone(tmp_path: Path, prepared: PreparedData, teacher: TrainedModel) -> None:
    data = chosen(tmp_path, prepared, replay=0.999)
    student = TEACHER.model_copy(update={"name": "student", "width": 16, "hidden_width": 32})
    config = DistillStageConfig(model=student, trainer=TRAINER)
    made = train(Run.local(tmp_path / "student", "distill"), config, prepared=prepared, chosen=data)
    looks = [row["validation_loss"] for row in made.history() if "validation_loss" in row]
    assert looks[-1] < looks[0]
    assert made.metrics["validation_bits_per_byte"] > 0
    assert "divergence" not in made.metrics
    assert load_model(made.model_folder).config.width == 16
    further = train(Run.local(tmp_path / "further", "distill"), config, prepared=prepared, chosen=data, base=teacher)
    assert load_model(further.model_folder).config.width == TEACHER.width
