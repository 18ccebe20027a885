import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import InputError
from components.model.config import ModelConfig
from components.model.decoder import Decoder, Row, log_sums
from components.model.decoder_pass import PIECE_TOKENS
from components.model.generate import Sampling, generate
from components.model.transformer import KeyValueCache, Transformer
from tests.model.conftest import VOCABULARY
from tests.model.test_decoder_pass import long_model


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def tiny() -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(layers=2, width=24, hidden_width=40, heads=4, kv_heads=2, context_length=64)
    model = Transformer(config, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3) if parameter.ndim == 2 else parameter.uniform_(0.5, 1.5)
    return model


def written(row: Row) -> list[int]:
    return row.ids[row.prompt_tokens :]


def alone(model: Transformer, ids: list[int], sampling: Sampling) -> list[int]:
    return [step.token for step in generate(model, ids, sampling)]


SAMPLINGS = [
    Sampling(temperature=0, max_tokens=20),
    Sampling(temperature=0, max_tokens=7, presence_penalty=1.5),
    Sampling(temperature=0, max_tokens=30, frequency_penalty=0.7, suppress_ids=frozenset({3, 5})),
    Sampling(temperature=0, max_tokens=12, repetition_penalty=1.8),
    Sampling(temperature=1.3, seed=1, max_tokens=20),
    Sampling(temperature=1.3, seed=2, max_tokens=20, top_p=0.8, presence_penalty=1.0),
    Sampling(temperature=0.8, seed=3, max_tokens=25, top_k=5, stop_ids=frozenset(range(40))),
    Sampling(temperature=1.3, seed=4, max_tokens=20, min_p=0.1, repetition_penalty=0.5),
]


@settings(max_examples=10, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 40), st.sampled_from(SAMPLINGS)), min_size=1, max_size=7
    ),
    cancelled=st.integers(0, 8),
)
def test_a_text_is_the_same_alone_and_among_others_that_come_and_go(
    arrivals: list[tuple[int, int, Sampling]], cancelled: int
) -> None:
    """Each arrival: at which step, with a prompt of which length, sampled how."""
    model = tiny()
    decoder, rows, step = Decoder(model), {}, 0
    while decoder.rows or len(rows) < len(arrivals):
        for number, (at, length, sampling) in enumerate(arrivals):
            if at <= step and number not in rows:
                rows[number] = decoder.add(prompt(length, number), sampling)
        if step == cancelled and decoder.rows:
            decoder.remove(decoder.rows[0])
        if decoder.rows:
            decoder.step()
        step += 1
    for number, (_, length, sampling) in enumerate(arrivals):
        expected = alone(model, prompt(length, number), sampling)
        found = written(rows[number])
        assert found == (expected if rows[number].finish is not None else expected[: len(found)])


def test_a_text_is_the_same_under_the_callers_autocast(model: Transformer) -> None:
    """The gate scores in bf16, and lets models write as they are served."""
    sampling = Sampling(temperature=0, max_tokens=12)
    expected = [alone(model, prompt(length), sampling) for length in (1, 9)]
    with torch.autocast("cpu", torch.bfloat16):
        decoder = Decoder(model)
        rows = [decoder.add(prompt(length), sampling) for length in (1, 9)]
        while decoder.rows:
            decoder.step()
    assert [written(row) for row in rows] == expected


def test_a_step_says_what_it_wrote_and_drops_what_has_ended(model: Transformer) -> None:
    decoder = Decoder(model)
    short = decoder.add(prompt(5), Sampling(temperature=0, max_tokens=2))
    long = decoder.add(prompt(9), Sampling(temperature=0, max_tokens=4))
    seen: dict[Row, list[int]] = {short: [], long: []}
    steps = 0
    while decoder.rows:
        for chosen in decoder.step():
            seen[chosen.row].append(chosen.token)
        steps += 1
        assert (short in decoder.rows) == (steps < 2)
    assert steps == 4
    assert (short.finish, long.finish) == ("length", "length")
    assert seen == {short: written(short), long: written(long)}


def test_prompts_delay_a_text_under_way_by_no_more_than_one_piece_a_step() -> None:
    model = long_model()
    decoder, read = Decoder(model), list[int]()
    model.embedding.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].numel()))
    under_way = decoder.add(prompt(5), Sampling(temperature=0, max_tokens=40))
    decoder.step()
    waiting = [decoder.add(prompt(length, length), Sampling(temperature=0, max_tokens=3)) for length in (100, 150, 600)]
    before = len(written(under_way))
    steps = 0
    while any(row.finish is None for row in waiting):
        decoder.step()
        steps += 1
    assert max(read) <= PIECE_TOKENS + 3
    assert len(written(under_way)) - before == steps
    for row in waiting:
        assert written(row) == alone(model, row.ids[: row.prompt_tokens], row.sampling)


def test_a_row_that_was_not_read_can_be_taken_back(model: Transformer) -> None:
    decoder = Decoder(model)
    row = decoder.add(prompt(9), Sampling(temperature=0, max_tokens=6))
    unread = row.unread
    (first,) = decoder.choose(*decoder.read())
    decoder.rewind(row, unread)
    assert decoder.choose(*decoder.read()) == [first]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_what_is_taken_back_has_never_been_written(sampling: Sampling) -> None:
    """Read or not, and also if it had ended the text."""
    decoder, model = Decoder(tiny()), tiny()
    row = decoder.add(prompt(9), sampling)
    for at in range(8):
        complete, logits = decoder.read([row])
        ids = [7, 7, 8][: row.left] if at % 2 else [9]
        decoder.write(row, ids)
        if at % 3:
            decoder.read([row])
        decoder.take_back(row, len(ids))
        assert (row.finish, row.unread) == (None, [])
        decoder.write(row, decoder.choose(complete, logits))
        if row.finish is not None:
            break
    assert written(row) == alone(model, prompt(9), sampling)[: len(written(row))]


def test_tokens_of_others_are_written_like_its_own(model: Transformer) -> None:
    """A helper's reply: several tokens at once, which the next step reads together."""
    decoder, sampling = Decoder(model), Sampling(temperature=0, max_tokens=9)
    row = decoder.add(prompt(5), sampling)
    decoder.read()
    decoder.write(row, [7, 8, 9])
    while decoder.rows:
        decoder.step()
    assert written(row)[:3] == [7, 8, 9]
    assert written(row)[3:] == alone(model, [*prompt(5), 7, 8, 9], Sampling(temperature=0, max_tokens=6))


def test_a_prompt_that_another_cache_has_begun_is_read_on(model: Transformer) -> None:
    ids, sampling = prompt(12), Sampling(temperature=0, max_tokens=8)
    cache = KeyValueCache.for_model(model)
    with torch.inference_mode():
        model(torch.tensor([ids[:7]]), cache=cache)
    decoder = Decoder(model)
    row = decoder.add(ids, sampling, cache)
    while decoder.rows:
        decoder.step()
    assert written(row) == alone(model, ids, sampling)
    with pytest.raises(ValueError, match="truncate it first"):
        decoder.add(ids[:7], sampling, cache)


def test_a_prompt_without_room_is_refused_and_leaves_nothing_behind(model: Transformer) -> None:
    decoder = Decoder(model)
    with pytest.raises(InputError, match="prompt is empty"):
        decoder.add([], Sampling())
    with pytest.raises(InputError, match=r"64 tokens.*context of 64.*63 tokens"):
        decoder.add([5] * 64, Sampling())
    assert not decoder.rows


def test_log_sums_are_those_of_double_precision() -> None:
    logits = 30 * torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    logits[:, 7] = float("-inf")
    torch.testing.assert_close(log_sums(logits), logits.double().logsumexp(-1).float(), atol=1e-5, rtol=1e-6)
