"""Many adapters in one batch: each text as the model with its adapter merged writes it, whatever the others are."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.model.adapters.files import read_adapter, read_unmerged, write_adapter
from components.model.adapters.unmerged import Unmerged
from components.model.config import ModelConfig
from components.model.decoder import Decoder
from components.model.decoder_pass import DecoderPass
from components.model.generate import generate
from components.model.prefix_blocks import PrefixBlocks
from components.model.sampling import Sampling
from components.model.transformer import Transformer
from tests.fakes import SPECIAL
from tests.model.conftest import VOCABULARY
from tests.model.test_adapters import fresh, put_on, train

SHAPE = ModelConfig(name="tiny", layers=2, width=48, hidden_width=80, heads=6, kv_heads=2, context_length=256)
KINDS: dict[str, dict[str, object]] = {
    "lora": {"rank": 4},
    "rslora": {"rank": 7, "targets": ["attention", "down"]},
    "dora": {"rank": 3},
    "pissa": {"rank": 2, "special_rows": False},
    "ia3": {"targets": ["key", "value", "down"]},
    "narrow": {"kind": "lora", "rank": 1, "targets": ["up"], "special_rows": False},
}
"""One adapter of each kind that can be served, of different ranks and on different matrices."""


class Adapted(NamedTuple):
    """A model and adapters of it."""

    model: Transformer
    adapters: list[Unmerged]
    merged: list[Transformer]
    """The model alone, and with each of the adapters merged into it."""


def adapted_model(folder: Path, shape: ModelConfig) -> Adapted:
    adapters, merged = [], [fresh(shape=shape)]
    for name, wanted in KINDS.items():
        model = fresh(shape=shape)
        adapter = put_on(model, **{"kind": name, "alpha": 8.0, **wanted})
        train(model)
        write_adapter(adapter, folder / name, SPECIAL)
        adapters.append(read_unmerged(merged[0], folder / name))
        again = fresh(shape=shape)
        read_adapter(again, folder / name).merge()
        merged.append(again.eval())
    return Adapted(merged[0], adapters, merged)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    shape = SHAPE.model_copy(update={"tied": request.param})
    return adapted_model(tmp_path_factory.mktemp("adapters"), shape)


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def logits_of(forward: DecoderPass, texts: list[tuple[list[int], int]], steps: int = 3) -> list[list[Tensor]]:
    """Logits after each of ``texts`` (ids and adapter) and after further tokens, all in one batch."""
    cache = forward.new_cache()
    unread = {cache.add(): ids for ids, _ in texts}
    adapters = {row: number for row, (_, number) in enumerate(texts) if number}
    found: list[list[Tensor]] = [[] for _ in texts]
    for step in range(steps):
        hidden = forward(cache, unread, adapters)
        for row, logits in enumerate(forward.logits(hidden, [number for _, number in texts])):
            found[row].append(logits)
        unread = {row: [SPECIAL.im_end if step else 7] for row in range(len(texts))}
    return found


def test_logits_are_those_of_the_merged_models(adapted: Adapted) -> None:
    ids = [*prompt(30), SPECIAL.im_end, *prompt(20, seed=1)]
    mixed = [(ids, number) for number in range(len(adapted.merged))]
    mixed += [(ids[:1], number) for number in (2, 0, 5)]
    found = logits_of(DecoderPass(adapted.model, adapted.adapters), mixed)
    for (text, number), steps in zip(mixed, found, strict=True):
        more = [7, SPECIAL.im_end]
        for step, logits in enumerate(steps):
            whole = adapted.merged[number]
            with torch.inference_mode():
                expected = whole.logits(whole(torch.tensor([[*text, *more[:step]]])))[0, -1]
            assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max(), (number, step)
    apart = {tuple(steps[0].tolist()) for steps in found[: len(KINDS) + 1]}
    assert len(apart) == len(KINDS) + 1


def test_greedy_texts_are_those_of_the_merged_models(adapted: Adapted) -> None:
    sampling = Sampling(temperature=0.0, max_tokens=25)
    decoder = Decoder(adapted.model, DecoderPass(adapted.model, adapted.adapters))
    texts = [(prompt(5 + 9 * number, seed=number), number) for number in range(len(adapted.merged))]
    rows = [decoder.add(ids, sampling, adapter=number) for ids, number in texts]
    while decoder.rows:
        decoder.step()
    for row, (ids, number) in zip(rows, texts, strict=True):
        expected = [step.token for step in generate(adapted.merged[number], ids, sampling)]
        assert row.ids[row.prompt_tokens :] == expected, number


Passes = dict[torch.dtype, DecoderPass]


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory) -> Passes:
    adapted = adapted_model(tmp_path_factory.mktemp("adapters"), SHAPE)
    rounded = fresh(shape=SHAPE).to(torch.bfloat16)
    return {
        torch.float32: DecoderPass(adapted.model, adapted.adapters),
        torch.bfloat16: DecoderPass(rounded, adapted.adapters),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_text_without_an_adapter_has_the_bits_of_the_model_alone(dtype: torch.dtype, passes: Passes) -> None:
    plain = DecoderPass(passes[dtype].model)
    for texts in ([(prompt(40), 0)], [(prompt(40), 0), (prompt(9), 0), (prompt(1), 0)]):
        others = [(prompt(12 + number, seed=number), number) for number in range(1, len(KINDS) + 1)]
        mixed = logits_of(passes[dtype], [*others, *texts])[len(others) :]
        for expected, found in zip(logits_of(plain, texts), mixed, strict=True):
            assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


@given(
    texts=st.lists(
        st.tuples(st.integers(0, len(KINDS)), st.sampled_from([1, 2, 17, 64, 65, 150])), min_size=2, max_size=8
    ),
    kept=st.lists(st.booleans(), min_size=8, max_size=8),
    threads=st.sampled_from([1, 2]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=15, deadline=None)
def test_a_text_is_the_same_to_the_last_bit_whatever_adapters_the_others_have(
    texts: list[tuple[int, int]], kept: list[bool], threads: int, dtype: torch.dtype, passes: Passes
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        forward = passes[dtype]
        given_texts = [(prompt(length, seed=at), number) for at, (number, length) in enumerate(texts)]
        together = logits_of(forward, given_texts)
        some = [at for at in range(len(texts)) if kept[at]]
        for members in filter(None, (some, [0])):
            for at, found in zip(members, logits_of(forward, [given_texts[at] for at in members]), strict=True):
                assert all(torch.equal(*pair) for pair in zip(found, together[at], strict=True))
    finally:
        torch.set_num_threads(before)


def test_a_prompt_that_an_adapter_has_read_is_not_found_by_others(passes: Passes) -> None:
    forward, sampling = passes[torch.float32], Sampling(temperature=0.0, max_tokens=5)
    ids = prompt(150)

    def answers(prefixes: PrefixBlocks | None) -> list[list[int]]:
        decoder, found = Decoder(forward.model, forward, prefixes), []
        for number in (1, 0, 2, 1, 0):
            row = decoder.add(ids, sampling, adapter=number)
            while decoder.rows:
                decoder.step()
            found.append(row.ids)
        return found

    kept = PrefixBlocks(10_000)
    assert answers(kept) == answers(None)
    assert kept.found_tokens == 2 * 128  # the second time of the adapter and of the model alone
