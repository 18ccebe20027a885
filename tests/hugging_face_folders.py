"""Tiny folders of Hugging Face's Llama family: random weights, and tokenizers that are not this platform's."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.fakes import SENTENCES

WORDS = SENTENCES * 3


def sentencepiece_like() -> Tokenizer:
    """As Llama 2's: spaces are ``▁``, one stands before the text, missing characters are bytes, ``<s>`` comes first."""
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokens.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *alphabet], show_progress=False, limit_alphabet=60
    )
    tokens.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # so that no merge crosses a word
    tokens.train_from_iterator(WORDS, trainer)
    tokens.pre_tokenizer = None
    record = json.loads(tokens.to_str())
    record["added_tokens"] = [token for token in record["added_tokens"] if not token["content"].startswith("<0x")]
    tokens = Tokenizer.from_str(json.dumps(record))
    tokens.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokens.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokens


def byte_level() -> Tokenizer:
    """As Qwen's: bytes of UTF-8, and no token before the text."""
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokens.train_from_iterator(WORDS, trainer)
    tokens.add_special_tokens([AddedToken("<|end|>", special=True), AddedToken("<|tool|>", special=True)])
    return tokens


def write_folder(
    folder: Path,
    family: str = "llama",
    tokens: Tokenizer | None = None,
    seed: int = 0,
    tied: bool = False,
    shard_size: str = "1GB",
    **shape: object,
) -> Path:
    """Save a random model of ``family`` with ``tokens`` (default: the one that fits the family) in ``folder``.

    ``shape``: what differs in its configuration.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    tokens = tokens or (byte_level() if family.startswith("qwen") else sentencepiece_like())
    end = tokens.token_to_id("</s>") if tokens.token_to_id("</s>") is not None else tokens.token_to_id("<|end|>")
    config = AutoConfig.for_model(
        family,
        **{
            "vocab_size": tokens.get_vocab_size() + 4,  # as where the vocabulary is padded to a round number
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 96,
            "tie_word_embeddings": tied,
            "bos_token_id": tokens.token_to_id("<s>"),
            "eos_token_id": end,
            "pad_token_id": None,
            **shape,
        },
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
        rows = model.get_output_embeddings().weight
        for id in range(len(rows)):  # it writes pieces of words: all else has logit 0, below the best of them
            piece = (tokens.id_to_token(id) or "").lstrip("▁Ġ")
            if not (len(piece) > 1 and piece.isascii() and piece.isalnum()):
                rows[id] = 0.0
    model.save_pretrained(folder, max_shard_size=shard_size)
    tokens.save(str(folder / "tokenizer.json"))
    return folder


def edit(folder: Path, **values: object) -> None:
    """Change fields of the folder's ``config.json``."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
