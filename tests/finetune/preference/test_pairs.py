"""What the stage ``preferences`` writes: whole pairs in whole windows, as a server would encode them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from components.core.errors import InputError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.special_tokens import CHAT_TEMPLATE_FILE
from components.data.split import SPLITS
from components.finetune.preference.artifact import ANSWER, Pairs
from components.finetune.preference.config import PairsConfig
from components.finetune.preference.pairs import stage
from components.training.trained import TrainedModel
from tests.finetune.preference.conftest import MODEL

LENGTH = MODEL.context_length


def window(pairs: Pairs, split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The targets of a window, and their marks."""
    place = number * LENGTH + 1, number * LENGTH + 1 + LENGTH
    return pairs.shards().splits[split].slice(*place), pairs.columns()[ANSWER].slice(split, *place)


def test_both_answers_of_a_pair_are_in_one_window_as_a_server_would_encode_them(
    pairs: Pairs, prepared: PreparedData
) -> None:
    tokenizer = prepared.tokenizer()
    for split in SPLITS:
        records = iter(pairs.records(split))
        for number in range((pairs.shards().splits[split].n_tokens - 1) // LENGTH):
            ids, marks = window(pairs, split, number)
            for pair in range(1, marks.max() + 1):
                record = next(records)
                for mark, answer in ((pair, record.chosen), (-pair, record.rejected)):
                    last = np.flatnonzero(marks == mark)[-1]
                    whole = tokenizer.encode_chat(
                        [*record.prompt, {"role": "assistant", "content": answer}], add_generation_prompt=False
                    )[: -len(tokenizer.encode("\n"))]
                    assert ids[last + 1 - len(whole) : last + 1].tolist() == whole
                    said = [*tokenizer.encode(answer), tokenizer.im_end_id]
                    assert ids[marks == mark].tolist() == said
        assert next(records, None) is None


@pytest.mark.parametrize("split", SPLITS)
def test_every_window_follows_a_boundary_and_ends_with_one(pairs: Pairs, split: str) -> None:
    shard = pairs.shards().splits[split]
    assert (shard.n_tokens - 1) % LENGTH == 0
    assert set(shard.slice(0, shard.n_tokens)[::LENGTH].tolist()) == {pairs.shards().boundary_id}


def test_the_subjects_of_one_split_are_in_no_other(pairs: Pairs) -> None:
    groups = [{record.group for record in pairs.records(split)} for split in SPLITS]
    assert all(groups)
    assert len(set.union(*groups)) == sum(map(len, groups))


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(count: int, words: int = 2) -> list[dict[str, str]]:
    return [
        {"prompt": f"What is {number}?", "chosen": "so " * words, "rejected": "no " * words} for number in range(count)
    ]


def test_pairs_longer_than_the_context_are_left_out_and_counted(
    tmp_path: Path, prepared: PreparedData, base: TrainedModel
) -> None:
    source = write(tmp_path / "pairs.jsonl", rows(60) + rows(3, words=200))
    made = stage(Run.local(tmp_path / "made"), PairsConfig(sources=[source]), prepared=prepared, model=base)
    assert made.details["left_out"] == {"longer than the context": 3}
    assert sum(made.details["pairs"].values()) == made.metrics["pairs"] == 60
    assert made.metrics["chosen_is_longer"] == 0.5  # they are of one length


def test_if_no_pair_fits_it_says_so(tmp_path: Path, prepared: PreparedData, base: TrainedModel) -> None:
    source = write(tmp_path / "pairs.jsonl", rows(9, words=200))
    with pytest.raises(
        InputError, match=r"no pair of answers is left for train.*9 longer than the context.*256 tokens"
    ):
        stage(Run.local(tmp_path / "made"), PairsConfig(sources=[source]), prepared=prepared, model=base)


def test_a_tokenizer_without_a_chat_template_is_refused(
    tmp_path: Path, prepared: PreparedData, base: TrainedModel
) -> None:
    shutil.copytree(base.folder, tmp_path / "base")
    (tmp_path / "base" / TrainedModel.MODEL / CHAT_TEMPLATE_FILE).unlink()
    with pytest.raises(InputError, match="has no chat template"):
        stage(
            Run.local(tmp_path / "made"),
            PairsConfig(),
            prepared=prepared,
            model=TrainedModel.open(tmp_path / "base"),
        )


def test_pairs_of_the_world_need_the_world(tmp_path: Path, prepared: PreparedData, base: TrainedModel) -> None:
    shutil.copytree(prepared.folder, tmp_path / "text")
    shutil.rmtree(tmp_path / "text" / PreparedData.RAW)
    with pytest.raises(InputError, match="the model was not trained on it"):
        stage(
            Run.local(tmp_path / "made"),
            PairsConfig(),
            prepared=PreparedData.open(tmp_path / "text"),
            model=base,
        )
