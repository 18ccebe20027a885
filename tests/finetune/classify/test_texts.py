import numpy as np
import pytest

from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.split import TEST, TRAIN, VALIDATION
from components.finetune.classify.artifacts import LabelledTexts
from components.finetune.classify.columns import LABEL, UNLABELLED
from components.finetune.classify.config import LabelledTextsConfig
from components.finetune.classify.labelled import LabelledText
from components.finetune.classify.splits import divided, without_near_duplicates
from components.finetune.classify.texts import stage
from components.training.loader import packed
from components.training.trained import TrainedModel
from tests.finetune.classify.conftest import MODEL, sentences, write


def labelled(*texts: str, label: str = "a") -> list[LabelledText]:
    return [LabelledText(id=text, text=text, labels=[label]) for text in texts]


def test_no_text_is_cut_by_a_window_and_each_has_its_label_where_it_ends(texts: LabelledTexts) -> None:
    shards, columns, tokenizer = texts.shards(), texts.columns(), texts.tokenizer()
    train = shards.splits[TRAIN]
    length = MODEL.context_length
    windows = list(range((train.n_tokens - 1) // length))
    assert (train.n_tokens - 1) % length == 0
    batch = packed(train, windows, length, shards.boundary_id, columns)
    found = []
    for row, ends in zip(batch.tokens.numpy(), batch.columns[LABEL].numpy(), strict=True):
        assert row[0] == shards.boundary_id
        starts = np.flatnonzero(row == shards.boundary_id)
        for end in np.flatnonzero(ends != UNLABELLED):
            start = starts[starts <= end][-1]
            found.append((tokenizer.decode(row[start + 1 : end + 1].tolist()), texts.labels().labels[ends[end]]))
    assert sorted(found) == sorted((each.text, each.labels[0]) for each in texts.labelled(TRAIN))


def test_texts_that_are_too_long_are_cut_and_counted(
    prepared: PreparedData, base: TrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("long")
    rows = [*sentences(40), {"text": "river " * 100, "label": "boats"}]
    config = LabelledTextsConfig(train=[str(write(folder / "rows.jsonl", rows))], similarity=1.0, test_fraction=0.1)
    found = stage(Run.local(folder / "run"), config, prepared=prepared, base=base)
    assert found.metrics["cut_texts"] == 1
    assert found.metrics["train_texts"] + found.metrics["validation_texts"] + found.metrics["test_texts"] < 41


def test_several_labels_are_a_row_of_zeros_and_ones(
    prepared: PreparedData, base: TrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("multi")
    rows = [
        {"text": f"{row['text']} {number}", "label": [row["label"], "any"]} for number, row in enumerate(sentences(40))
    ]
    config = LabelledTextsConfig(train=[str(write(folder / "rows.jsonl", rows))], kind="multi")
    found = stage(Run.local(folder / "run"), config, prepared=prepared, base=base)
    values = found.columns()[LABEL].slice(TEST, 0, found.shards().splits[TEST].n_tokens)
    given = {tuple(row) for row in values.tolist()}
    assert given == {(UNLABELLED,) * 3, (1, 1, 0), (1, 0, 1)}  # any, boats, bread


def test_another_tokenizer_is_refused(
    prepared: PreparedData,
    base: TrainedModel,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path_factory.mktemp("other")
    monkeypatch.setattr("components.finetune.classify.texts.tokenizer_digest", lambda folder: "another")
    with pytest.raises(ArtifactError, match="has another tokenizer than the data"):
        stage(Run.local(folder), LabelledTextsConfig(), prepared=prepared, base=base)


def test_too_few_texts_for_every_split_are_refused(
    prepared: PreparedData, base: TrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("few")
    rows = [{"text": "a river of oak and more", "label": "boats"}, {"text": "in winter the town is", "label": "bread"}]
    files = [str(write(folder / "rows.jsonl", rows))]
    with pytest.raises(InputError, match=r"none is left for validation and test \(2 test texts nearly repeat"):
        stage(Run.local(folder / "run"), LabelledTextsConfig(train=files, test=files), prepared=prepared, base=base)


def test_near_duplicates_of_training_texts_leave_the_test() -> None:
    train = labelled("when will my new card arrive at my house", "Free entry now")
    test = labelled(
        "When will my new card arrive at my house?", "will my new card arrive at my house", "free ENTRY now!",
        "when will the other card arrive at the bank", "free entry tomorrow",
    )  # fmt: skip
    kept = without_near_duplicates(test, train, shingle_words=3, similarity=0.7)
    assert [each.text for each in kept] == ["when will the other card arrive at the bank", "free entry tomorrow"]


def test_the_texts_of_a_label_are_chosen_by_seed_and_some_held_out() -> None:
    train = [*labelled(*map(str, range(100)), label="a"), *labelled(*map(str, range(100, 130)), label="b")]
    test = labelled("x y z")
    config = LabelledTextsConfig(per_class=20, validation_fraction=0.1)
    first, again = divided(train, test, config), divided(train[::-1], test, config)
    counts = {
        split: [sum(each.labels == [label] for each in members) for label in "ab"]
        for split, members in first.texts.items()
    }
    assert counts == {TRAIN: [18, 18], VALIDATION: [2, 2], TEST: [1, 0]}
    assert {each.text for each in first.texts[TRAIN]} == {each.text for each in again.texts[TRAIN]}
    other = divided(train, test, config.model_copy(update={"seed": 1}))
    assert {each.text for each in other.texts[TRAIN]} != {each.text for each in first.texts[TRAIN]}
