"""Tokenizers as others have learned them: special tokens anywhere, an end of text with another name, more of them."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from components.data.special_tokens import CALL, END_OF_TEXT, IM_END, IM_START, PADDING
from components.data.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS

OTHER_END, TOOL = "</s>", "<|tool|>"
SCATTERED = (200, 7, 133, 0, 64, 31)
"""Where the special tokens could be in a vocabulary of 320 or more."""


def save_elsewhere(learned: Tokenizer, folder: Path, places: Sequence[int] | None) -> None:
    """Save ``learned``, which merges as before, with other ids and with one special token more.

    Arguments:
        places: ids of the special tokens, of ``TOOL`` last; ``None``: they stand at the end of the vocabulary.
    """
    record = json.loads(learned.to_str())
    vocabulary = record["model"]["vocab"]
    text = [token for token in sorted(vocabulary, key=vocabulary.__getitem__) if token not in SPECIAL_TOKENS]
    names = [OTHER_END if name == END_OF_TEXT else name for name in SPECIAL_TOKENS] + [TOOL]
    ids = dict(zip(names, places or range(len(text), len(text) + len(names)), strict=True))
    for name in sorted(ids, key=ids.__getitem__):
        text.insert(ids[name], name)
    record["model"]["vocab"] = {token: id for id, token in enumerate(text)}
    common = record["added_tokens"][0]
    record["added_tokens"] = [{**common, "id": ids[name], "content": name} for name in sorted(ids, key=ids.__getitem__)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(record))
    # transformers writes some names as records of their own.
    end = {**common, "__type": "AddedToken", "content": OTHER_END}
    del end["id"]
    roles = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "pad_token": PADDING}
    more = {"additional_special_tokens": [IM_START, IM_END, CALL, TOOL], "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps({**roles, **more}))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
