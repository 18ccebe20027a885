"""What the benchmark of classification reckons, and the settings that it asks for."""

from pathlib import Path

import pytest

from benchmarks.classification import TASKS, Bench, Task, accuracy, f1_of_spam, shares

SPAM, BANK = TASKS


def test_f1_is_that_of_spam_and_not_of_ham() -> None:
    true = [["spam"], ["spam"], ["ham"], ["ham"], ["ham"]]
    said = [["spam"], ["ham"], ["spam"], ["ham"], ["ham"]]
    assert f1_of_spam(true, said) == pytest.approx(2 / 4)
    assert accuracy(true, said) == pytest.approx(3 / 5)
    assert f1_of_spam(true, [["ham"]] * 5) == 0


@pytest.mark.parametrize("task", TASKS, ids=[task.name for task in TASKS])
def test_each_seed_chooses_the_texts_and_the_order_for_one_and_the_same_base(task: Task, tmp_path: Path) -> None:
    bench = Bench(tmp_path, tmp_path, ["finetune.classify.head.ngrams.weight=0"])
    first, second = (bench.settings(task.overrides(tmp_path, seed)) for seed in (0, 2))
    assert (first.data, first.model, first.trainer) == (second.data, second.model, second.trainer)
    assert (second.finetune.classify.data.seed, second.finetune.training.seed) == (2, 2)
    assert not any(source.endswith(task.test) for source in first.data.sources)
    assert any(source.endswith(task.train) for source in first.data.sources)
    assert first.finetune.classify.head.ngrams.weight == 0


def test_banking77_has_twenty_texts_of_each_label(tmp_path: Path) -> None:
    bench = Bench(tmp_path, tmp_path, [])
    assert bench.settings(BANK.overrides(tmp_path, 0)).finetune.classify.data.per_class == 20
    assert bench.settings(SPAM.overrides(tmp_path, 0)).finetune.classify.data.per_class == 0


def test_seeds_are_shown_beside_their_mean() -> None:
    assert shares([0.945, 0.951]) == "94.8% (94.5, 95.1)"
