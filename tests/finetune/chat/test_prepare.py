"""The stage ``chats``: what is held out, what is replayed, and what cannot be used."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from components.core.errors import InputError
from components.core.run import Run
from components.data.chats.artifact import Chats
from components.data.chats.columns import ASSISTANT, LEARNT, STATED
from components.data.chats.config import ChatsConfig, ConversationsConfig
from components.data.prepared import PreparedData
from components.data.special_tokens import CHAT_TEMPLATE_FILE
from components.data.world.facts import build
from components.data.world.questions import askable
from components.evaluation.questions import read_questions
from components.finetune.chat.prepare import stage
from components.labelling.artifact import Labels
from tests.finetune.chat.conftest import CONTEXT, CONVERSATIONS, DATA


def texts(chats: Chats, split: str) -> str:
    return "\n".join(chats.texts(split, range(chats.shards().splits[split].n_documents)))


def test_no_question_that_is_held_out_is_trained_on(chats: Chats) -> None:
    assert chats.questions is not None
    questions = read_questions(chats.questions, 10_000)
    assert len(questions) > 20
    trained = texts(chats, "train") + texts(chats, "validation")
    held_out = {message["content"] for messages in chats.held_out() for message in messages}
    for question in questions:
        assert question.question in held_out
        assert f"{question.question}\n" not in trained


def test_split_by_subject_nothing_about_a_held_out_subject_is_asked_in_training(
    prepared: PreparedData, tmp_path: Path
) -> None:
    by_subject = CONVERSATIONS.model_copy(update={"split_by": "subject"})
    config = ChatsConfig(conversations=by_subject, context_length=CONTEXT, replay=0)
    chats = stage(Run.local(tmp_path, "chats"), config, prepared=prepared)
    assert chats.questions is not None
    held_out = Counter(question.id.rpartition(".")[0] for question in read_questions(chats.questions, 10_000))
    assert len(held_out) > 1
    facts = {f"question-{subject.id}": len(askable(subject)) for subject in build(DATA.world)}
    assert all(count == facts[subject] for subject, count in held_out.items()), "all of a subject, or nothing"


def test_only_the_values_that_the_assistant_states_are_facts(chats: Chats, chat_labels: Labels) -> None:
    tokenizer, shards, facts = chats.tokenizer(), chats.shards(), chat_labels.facts(chats)
    split = shards.splits["test"]
    marked = facts.slice("test", 0, split.n_tokens)
    assert marked.any()
    assert not (marked & ~chats.columns[ASSISTANT].slice("test", 0, split.n_tokens)).any()
    (question, *_) = read_questions(chats.questions, 1)  # type: ignore[arg-type]
    assert question.answer.split()[0] in tokenizer.decode(split.slice(0, split.n_tokens)[marked].tolist())


def test_a_share_of_the_windows_replays_the_text_of_the_pretraining_with_its_facts(
    chats: Chats, prepared: PreparedData
) -> None:
    split, columns = chats.shards().splits["train"], chats.columns
    windows = (split.n_tokens - 1) // CONTEXT
    rows = [slice(window * CONTEXT, (window + 1) * CONTEXT) for window in range(windows)]
    said = {name: columns[name].slice("train", 0, split.n_tokens) for name in (ASSISTANT, LEARNT, STATED)}
    replayed = [row for row in rows if (said[LEARNT] & ~said[ASSISTANT])[row].any()]
    assert len(replayed) == chats.metrics["replayed_windows"] == round(0.1 / 0.9 * (windows - len(replayed)))
    assert not any(said[ASSISTANT][row].any() for row in replayed)
    text = prepared.tokenizer().decode(prepared.shards().splits["train"].slice(0, 10**4).tolist())
    first = split.slice(replayed[0].start, replayed[0].stop)
    end = int(np.argmax(first == chats.shards().boundary_id)) or CONTEXT - 1
    piece = prepared.tokenizer().decode(first[:end].tolist())
    assert piece in text
    assert said[STATED][replayed[0]].any()
    assert not said[LEARNT][[row.start for row in replayed]].any(), "nothing stands before the first token"


def test_files_of_conversations_need_no_world_and_count_what_is_cut_and_dropped(
    prepared: PreparedData, tmp_path: Path
) -> None:
    lines = [{"prompt": f"What is {n}?", "response": f"It is {n}."} for n in range(60)]
    exchange = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "No more."}]
    lines += [{"messages": exchange * 20}, {"prompt": "Why?", "response": "Because. " * 200}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = CONVERSATIONS.model_copy(update={"sources": [str(tmp_path / "chats.jsonl")]})
    chats = stage(
        Run.local(tmp_path / "run", "chats"), ChatsConfig(conversations=source, context_length=64), prepared=prepared
    )
    assert (chats.metrics["conversations"], chats.metrics["cut"], chats.metrics["dropped"]) == (61, 1, 1)
    assert chats.questions is None
    assert "1 cut and 1 dropped" in dict(chats.record.rows)["conversations"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [{"prompt": "Why?", "response": "Because. " * 200}],
            "no conversation is left .* does not fit a context of 96",
        ),
        ([{"prompt": "Why?", "response": "So."}], "1 conversations are too few: .* none fell to"),
    ],
)
def test_sources_without_enough_conversations_are_refused(
    prepared: PreparedData, tmp_path: Path, lines: list[dict[str, str]], message: str
) -> None:
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = ChatsConfig(
        conversations=ConversationsConfig(sources=[str(tmp_path / "chats.jsonl")]), context_length=CONTEXT
    )
    with pytest.raises(InputError, match=message):
        stage(Run.local(tmp_path / "run", "chats"), config, prepared=prepared)


def test_data_without_a_closed_world_or_a_chat_template_is_refused(prepared: PreparedData, tmp_path: Path) -> None:
    shutil.copytree(prepared.folder, tmp_path / "data")
    shutil.rmtree(tmp_path / "data/raw")
    other = PreparedData.open(tmp_path / "data")
    with pytest.raises(InputError, match=r"asks about the closed world, but the data in .* holds none"):
        stage(Run.local(tmp_path / "one", "chats"), ChatsConfig(), prepared=other)
    (tmp_path / "data/tokenizer" / CHAT_TEMPLATE_FILE).unlink()
    with pytest.raises(InputError, match="has no chat template"):
        stage(Run.local(tmp_path / "two", "chats"), ChatsConfig(), prepared=other)
