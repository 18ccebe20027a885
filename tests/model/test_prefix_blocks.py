import pytest
import torch

from components.model.decoder import Decoder, Row
from components.model.decoder_pass import BLOCK, PIECE_TOKENS
from components.model.prefix_blocks import PrefixBlocks
from components.model.sampling import Sampling
from components.model.transformer import Transformer
from tests.model.test_decoder_pass import long_model, prompt


@pytest.fixture(scope="module")
def model() -> Transformer:
    return long_model()


def logits(decoder: Decoder, row: Row, steps: int = 3) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    while len(found) < steps:
        rows, of_rows = decoder.read([row])
        if rows:
            found.append(of_rows[0])
            decoder.write(row, decoder.choose(rows, of_rows))
    return found


@pytest.mark.parametrize("length", [BLOCK, BLOCK + 1, BLOCK + 2, 200, PIECE_TOKENS, PIECE_TOKENS + 1, 600])
@pytest.mark.parametrize("shared", [40, BLOCK, 150, 599])
def test_a_prompt_that_begins_alike_is_the_same_to_the_last_bit(model: Transformer, length: int, shared: int) -> None:
    shared = min(shared, length)
    sampling, blocks = Sampling(temperature=0, max_tokens=5), PrefixBlocks(10_000)
    new = [*prompt(600, 1)[:shared], *prompt(length - shared, 2)]
    decoder = Decoder(model, prefixes=blocks)
    logits(decoder, decoder.add(prompt(600, 1), sampling))
    again = logits(decoder, decoder.add(new, sampling))
    assert blocks.found_tokens == min(shared, length - 1) // BLOCK * BLOCK
    alone = Decoder(model)
    expected = logits(alone, alone.add(new, sampling))
    assert all(torch.equal(*pair) for pair in zip(again, expected, strict=True))


def test_what_was_not_asked_for_the_longest_is_forgotten_and_the_end_before_the_beginning(model: Transformer) -> None:
    sampling, blocks = Sampling(temperature=0, max_tokens=5), PrefixBlocks(4 * BLOCK)
    decoder = Decoder(model, prefixes=blocks)
    first, second, third = (prompt(2 * BLOCK + 5, seed) for seed in (1, 2, 3))
    for ids in (first, second, first):
        logits(decoder, decoder.add(ids, sampling))
    assert blocks.found_tokens == 2 * BLOCK
    logits(decoder, decoder.add(third[: BLOCK + 5], sampling))  # its block takes the place of the second's last
    for ids, known in ((first, 2), (third[: BLOCK + 5], 1), (second, 1)):
        before = blocks.found_tokens
        logits(decoder, decoder.add(ids[:-1], sampling))
        assert blocks.found_tokens - before == known * BLOCK


def test_answers_are_not_kept(model: Transformer) -> None:
    """They were read token by token, in other sums than a prompt."""
    blocks = PrefixBlocks(10_000)
    decoder = Decoder(model, prefixes=blocks)
    row = decoder.add(prompt(BLOCK - 10), Sampling(temperature=0, max_tokens=100))
    while decoder.rows:
        decoder.step()
    decoder.add(row.ids, Sampling())
    assert blocks.found_tokens == 0
