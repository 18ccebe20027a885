"""The tokenizer of a GGUF file. llama.cpp knows how to split text by a name, so only known patterns can be written."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.errors import InputError
from components.core.records import read_object
from components.data.special_tokens import CHAT_TEMPLATE_FILE, TOKENIZER
from components.data.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

# llama.cpp's names, by the pattern that text is split with before merging.
_LLAMA_3 = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
_SPLITTERS = {_LLAMA_3: "llama-bpe"}
_GPT_2 = "gpt-2"
# transformers marks what the assistant says; llama.cpp's reader of templates does not know these words.
_MARKS = ("{% generation %}", "{% endgeneration %}")


def write_tokenizer(writer: "GGUFWriter", folder: Path) -> None:
    """Write the tokenizer of the model ``folder``; raises ``InputError`` if llama.cpp would read text otherwise."""
    from gguf import TokenType

    content = read_object(folder / TOKENIZER)
    tokenizer = TextTokenizer.load(folder)
    special = tokenizer.special
    pieces = {id: piece for piece, id in content["model"]["vocab"].items()}
    pieces |= {each["id"]: each["content"] for each in content["added_tokens"]}
    known = set(special.ids.values())
    kinds = [TokenType.CONTROL if id in known else TokenType.NORMAL for id in range(tokenizer.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter(content, folder))
    writer.add_token_list([pieces[id] for id in range(tokenizer.vocab_size)])
    writer.add_token_types(kinds)
    writer.add_token_merges(list(_merges(content["model"])))
    writer.add_eos_token_id(special.end_of_text)
    writer.add_eot_token_id(special.im_end)
    writer.add_pad_token_id(special.padding)
    writer.add_add_bos_token(False)
    if (template := folder / CHAT_TEMPLATE_FILE).is_file():
        text = template.read_text(encoding="utf-8")
        for mark in _MARKS:
            text = text.replace(mark, "")
        writer.add_chat_template(text)


def _merges(model: Mapping[str, Any]) -> Iterator[str]:
    return (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])


def splitter(content: Mapping[str, Any], folder: Path) -> str:
    """llama.cpp's name for how the tokenizer splits text, whose ``tokenizer.json`` in ``folder`` holds ``content``.

    Raises ``InputError`` if it has none.
    """
    rule = content.get("pre_tokenizer") or {}
    parts = rule.get("pretokenizers", [rule])
    names = [part.get("type") for part in parts]
    plain = content["model"].get("type") == "BPE" and content.get("normalizer") is None
    if plain and names == ["Split", "ByteLevel"] and not parts[1].get("use_regex"):
        if name := _SPLITTERS.get(parts[0]["pattern"].get("Regex", "")):
            return name
    elif plain and names == ["ByteLevel"] and parts[0].get("use_regex") and not parts[0].get("add_prefix_space"):
        return _GPT_2
    raise InputError(
        f"the tokenizer in {folder} cannot be written to GGUF: llama.cpp would split text otherwise. It can be written "
        "for tokenizers that this platform trained, and for byte-level BPE with the pattern of Llama 3 or GPT-2; this "
        f"one is {content['model'].get('type')} with {', '.join(map(str, names))}. Use format=huggingface"
    )
