import torch

from components.data.tokenizer import TextTokenizer
from components.evaluation.config import SamplesConfig
from components.evaluation.samples import continue_documents
from components.model.transformer import Transformer
from tests.evaluation.conftest import SHAPE

TEXT = "Ada was born in Orlen and worked as a weaver. Gus was born in Pavia and worked as a miller."


def test_a_sample_begins_with_the_words_asked_for_and_shows_how_the_text_went_on(
    trained: Transformer, tokenizer: TextTokenizer
) -> None:
    [sample] = continue_documents(trained, tokenizer, [TEXT], SamplesConfig(prompt_words=4, max_tokens=10))
    assert sample.prompt == "Ada was born in"
    assert sample.original
    assert TEXT.removeprefix(sample.prompt).startswith(sample.original)
    assert 0 < len(tokenizer.encode(sample.continuation)) <= 10


def test_the_seed_decides_and_temperature_zero_needs_none(trained: Transformer, tokenizer: TextTokenizer) -> None:
    def continuation(seed: int, temperature: float) -> str:
        cfg = SamplesConfig(prompt_words=4, max_tokens=30, seed=seed, temperature=temperature)
        return continue_documents(trained, tokenizer, [TEXT], cfg)[0].continuation

    assert continuation(1, 1.0) == continuation(1, 1.0) != continuation(2, 1.0)
    assert continuation(1, 0.0) == continuation(2, 0.0)


def test_a_text_shorter_than_the_prompt_and_an_empty_one_are_continued(
    trained: Transformer, tokenizer: TextTokenizer
) -> None:
    short, empty = continue_documents(trained, tokenizer, ["Ada was", ""], SamplesConfig(max_tokens=5))
    assert (short.prompt, short.original) == ("Ada was", "")
    assert empty.prompt == ""
    assert empty.continuation


def test_words_longer_than_the_context_leave_room_for_the_continuation(
    trained: Transformer, tokenizer: TextTokenizer
) -> None:
    [sample] = continue_documents(trained, tokenizer, ["x" * 500], SamplesConfig(max_tokens=8))
    assert len(tokenizer.encode(sample.prompt)) <= SHAPE.context_length // 2
    assert sample.continuation


def test_a_model_that_would_rather_call_writes_text(trained: Transformer, tokenizer: TextTokenizer) -> None:
    calling = Transformer(SHAPE, tokenizer.vocab_size).eval()
    calling.load_state_dict(trained.state_dict())
    cfg = SamplesConfig(prompt_words=4, max_tokens=1, temperature=0.0)
    with torch.no_grad():
        prompt = torch.tensor([[tokenizer.end_of_text_id, *tokenizer.encode("Ada was born in")]])
        calling.output_weight[tokenizer.call_id] = 1000 * trained(prompt)[0, -1]
        assert calling.logits(calling(prompt))[0, -1].argmax() == tokenizer.call_id
    assert continue_documents(calling, tokenizer, [TEXT], cfg) == continue_documents(trained, tokenizer, [TEXT], cfg)
