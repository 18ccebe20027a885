import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.core.errors import InputError
from components.model.generate import Sampling, choose, generate
from components.model.transformer import Transformer

PROMPT = [17, 101, 33, 90]


def tokens(model: Transformer, prompt: list[int] = PROMPT, **values: object) -> list[int]:
    return [step.token for step in generate(model, prompt, Sampling(**values))]  # type: ignore[arg-type]


def test_greedy_generation_is_the_argmax_of_a_forward_pass_over_everything(model: Transformer) -> None:
    sequence = list(PROMPT)
    with torch.no_grad():
        for _ in range(12):
            sequence.append(int(model.logits(model(torch.tensor([sequence])))[0, -1].argmax()))
    assert tokens(model, temperature=0, max_tokens=12) == sequence[len(PROMPT) :]


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(model: Transformer) -> None:
    first, again, other = (tokens(model, seed=seed, max_tokens=30) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_log_probabilities_are_those_of_the_model_without_the_suppressed(model: Transformer) -> None:
    suppressed = frozenset([4, 9])
    step = next(generate(model, PROMPT, Sampling(suppress_ids=suppressed, temperature=0.3)))
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([PROMPT])))[0, -1]
    logits[list(suppressed)] = float("-inf")
    torch.testing.assert_close(step.log_probabilities, logits.log_softmax(-1), atol=1e-5, rtol=1e-5)
    assert step.logprob == pytest.approx(step.log_probabilities[step.token].item())


def test_suppressed_tokens_never_appear_and_a_stop_token_is_the_last(model: Transformer) -> None:
    free = tokens(model, temperature=0, max_tokens=20)
    assert free[0] not in tokens(model, temperature=0, max_tokens=20, suppress_ids=frozenset([free[0]]))
    stopped = tokens(model, temperature=0, max_tokens=20, stop_ids=frozenset([free[3]]))
    assert stopped == free[: free.index(free[3]) + 1]


def test_generation_ends_when_the_context_is_full(model: Transformer) -> None:
    limit = model.config.context_length
    assert len(tokens(model, max_tokens=1000)) == limit - len(PROMPT)
    assert len(tokens(model, [5] * (limit - 1), max_tokens=1000)) == 1


def test_an_empty_prompt_and_one_that_fills_the_context_are_refused(model: Transformer) -> None:
    with pytest.raises(InputError, match="prompt is empty"):
        tokens(model, [])
    with pytest.raises(InputError, match=r"64 tokens.*context of 64.*63 tokens"):
        tokens(model, [5] * 64)


@pytest.mark.parametrize(
    "values",
    [
        {"max_tokens": 0},
        {"max_tokens": -3},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"presence_penalty": 2.5},
        {"frequency_penalty": float("nan")},
        {"min_p": -0.1},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("nan")},
    ],
)
def test_impossible_sampling_is_refused_by_name(values: dict[str, float]) -> None:
    (name,) = values
    with pytest.raises(InputError, match=name):
        Sampling(**values)  # type: ignore[arg-type]


@given(seed=st.integers(0, 10_000), top_p=st.floats(0.01, 1), top_k=st.integers(0, 12), temperature=st.floats(0.05, 3))
def test_a_drawn_token_is_always_among_the_allowed(seed: int, top_p: float, top_k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_probabilities = torch.randn(12, generator=generator).log_softmax(-1)
    token = choose(log_probabilities, Sampling(temperature, top_p, top_k), generator, {})
    order = log_probabilities.argsort(descending=True).tolist()
    rank = order.index(token)
    if top_k:
        assert rank < top_k
    scaled = (log_probabilities / temperature).softmax(-1)
    if top_k:
        scaled = scaled / scaled[order[:top_k]].sum()
    assert scaled[order[:rank]].sum() < top_p + 1e-5


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(3)
    for _ in range(4000):
        counts[choose(probabilities.log(), Sampling(), generator, {})] += 1
    torch.testing.assert_close(counts / 4000, probabilities, atol=0.03, rtol=0)


@given(seed=st.integers(0, 1000), min_p=st.floats(0.0, 1.0), temperature=st.floats(0.1, 3))
def test_min_p_keeps_what_is_so_many_times_as_probable_as_the_likeliest(
    seed: int, min_p: float, temperature: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(12, generator=generator)
    token = choose(logits, Sampling(temperature, min_p=min_p), generator, {})
    probabilities = (logits / temperature).softmax(-1)
    assert probabilities[token] >= min_p * probabilities.max() - 1e-6


def test_of_equal_tokens_as_many_are_kept_as_top_p_and_top_k_ask_for() -> None:
    generator = torch.Generator().manual_seed(0)
    for sampling, count in ((Sampling(top_p=0.75), 75), (Sampling(top_k=40), 40), (Sampling(top_k=40, top_p=0.5), 20)):
        drawn = {choose(torch.zeros(100), sampling, generator, {}) for _ in range(1500)}
        assert drawn == set(range(count))


def test_the_repetition_penalty_is_ctrls_and_sees_the_prompt() -> None:
    """arXiv:1909.05858: positive logits are divided, negative ones multiplied."""
    logits = torch.tensor([3.0, 2.0, -1.0, -1.5])

    def greedy(text: list[int], penalty: float, scores: torch.Tensor = logits) -> int:
        sampling = Sampling(temperature=0, repetition_penalty=penalty)
        return choose(scores, sampling, torch.Generator(), {}, text)

    assert greedy([0, 0], 1.4) == 0
    assert greedy([0], 1.6) == 1
    assert greedy([2], 1.6, logits[2:].repeat(2)) == 0
    assert greedy([0, 2], 1.6, logits[2:].repeat(2)) == 1
    assert logits.tolist() == [3.0, 2.0, -1.0, -1.5]


def test_penalties_are_openais() -> None:
    """``logit - count * frequency_penalty - (count > 0) * presence_penalty``, for tokens of the answer."""
    logits = torch.tensor([3.0, 2.0, 1.0, float("-inf")])
    generator = torch.Generator()

    def greedy(written: dict[int, int], **penalties: float) -> int:
        return choose(logits.log_softmax(-1), Sampling(temperature=0, **penalties), generator, written)  # type: ignore[arg-type]

    assert greedy({0: 5}) == 0
    assert greedy({0: 5}, presence_penalty=0.9) == 0
    assert greedy({0: 5}, presence_penalty=1.1) == 1
    assert greedy({0: 1, 1: 1}, presence_penalty=1.1) == 0  # both lose the same
    assert greedy({0: 2}, frequency_penalty=0.6) == 1
    assert greedy({0: 2, 1: 4}, frequency_penalty=0.9) == 0
    assert greedy({0: 1, 1: 1, 2: 1, 3: 1}, presence_penalty=2, frequency_penalty=2) == 0  # never what is suppressed


def test_a_penalty_ends_a_greedy_loop_and_leaves_the_reported_probabilities_alone(model: Transformer) -> None:
    looping = tokens(model, temperature=0, max_tokens=40)
    steps = list(
        generate(model, PROMPT, Sampling(temperature=0, max_tokens=40, presence_penalty=2, frequency_penalty=2))
    )
    varied = [step.token for step in steps]
    assert len(set(varied)) > len(set(looping))
    assert varied[0] == looping[0]  # the prompt does not count
    probabilities = model(torch.tensor([[*PROMPT, *varied[:-1]]]))
    expected = model.logits(probabilities)[0, len(PROMPT) - 1 :].log_softmax(-1)
    found = torch.stack([step.log_probabilities for step in steps])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
