"""The same logits and settings choose what `generate()` would choose, as often as it would."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LogitsProcessor

from chatui.engine.sampling.sampler import FEW, MANY, RowLogits, Sampler, choose_each, model_logits_processors
from chatui.engine.sampling.top_logits import find_top_logits
from chatui.errors import GenerationError
from chatui.generation_settings import GenerationSettings
from tests import models
from tests.examples import some_of

IDS = torch.tensor([[5, 9, 4, 1, 5]])
OFF: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
VALUES = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([0, 1, 7, 63, 64, 65, 200]),
        "top_p": st.sampled_from([0.05, 0.5, 0.95, 1.0]),
        "min_p": st.sampled_from([0.0, 0.001, 0.1, 1.0]),
        "repetition_penalty": st.sampled_from([0.8, 1.0, 1.3]),
        "no_repeat_ngram_size": st.sampled_from([0, 1, 2]),
    }
)
RULES: list[dict[str, Any]] = [
    {"suppress_tokens": [1, 2]},
    {"begin_suppress_tokens": [1, 2]},
    {"bad_words_ids": [[7], [5, 9]]},
    {"sequence_bias": [[[11], 5.0], [[4], -3.0]]},
]


def logits(seed: int = 0, vocabulary: int = models.VOCABULARY, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def chosen(values: dict[str, Any], seed: int, count: int = 20) -> list[int]:
    sampler = Sampler(GenerationSettings(**values), seed)
    return [sampler.choose(IDS, logits(step)) for step in range(count)]


def seen(scores: torch.Tensor, temperature: float) -> list[RowLogits]:
    return [RowLogits.of(0, scores, temperature, find_top_logits(scores, [temperature], FEW))]


def ours(values: dict[str, Any], scores: torch.Tensor, rules: Sequence[LogitsProcessor] = ()) -> torch.Tensor:
    """The probability of every token, as our sampler has it: [vocabulary]."""
    sampler = Sampler(GenerationSettings(**values), 0, rules)
    [highest] = seen(sampler.rule(IDS, scores), values["temperature"])
    ids, kept = sampler.candidates(highest)
    found = torch.zeros(scores.shape[-1])
    found[ids] = kept.softmax(-1)
    return found


def theirs(values: dict[str, Any], scores: torch.Tensor, **config: Any) -> torch.Tensor:
    """The same as `generate()` has it, which looks at the whole vocabulary."""
    model, made = models.model("llama"), GenerationConfig(**values, **config, do_sample=True)
    made._eos_token_tensor = None
    # To torch's types an attribute of a module is a tensor or a module.
    own: Callable[..., Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = model._get_logits_processor  # type: ignore[assignment]
    processors = own(made, input_ids_seq_length=IDS.shape[1], device="cpu")
    return processors(IDS, scores.clone())[0].softmax(-1)


FLAT = logits(spread=0.5)


class TestKept:
    @given(VALUES, st.integers(0, 1000), st.sampled_from([0.02, 1.0, 3.0, 12.0]))
    @example({**OFF, "top_k": 64}, 0, 3.0)
    @example({**OFF, "top_p": 0.95}, 0, 0.02)
    @example({**OFF, "min_p": 0.001}, 0, 0.02)
    @settings(max_examples=some_of(150), deadline=None)
    def test_what_is_kept_is_what_generate_keeps(self, values: dict[str, Any], seed: int, spread: float) -> None:
        scores = logits(seed, 5000, spread)
        found, wanted = ours(values, scores), theirs(values, scores)
        differs = (found > 0) != (wanted > 0)
        if not differs.any():
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-3)
            return
        # Sums are rounded differently, so what lies just on the border of top-p may fall on either side.
        whole = theirs({**values, "top_p": 1.0, "min_p": 0.0}, scores).double()
        above = torch.stack([whole[whole > one].sum() for one in whole[differs]])
        assert ((above - values["top_p"]).abs() < 1e-5).all()

    @given(VALUES, st.integers(0, 200))
    @settings(max_examples=some_of(60), deadline=None)
    def test_ties(self, values: dict[str, Any], seed: int) -> None:
        """Coarse logits, as bfloat16 gives; which of several equal tokens stays at the border does not matter."""
        scores = (logits(seed, 5000) * 4).round() / 4
        found, wanted = ours(values, scores), theirs(values, scores)
        if values["top_p"] < 1.0:
            assert abs(int((found > 0).sum()) - int((wanted > 0).sum())) <= 1
        else:
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-3)

    def test_few_candidates_are_looked_at_where_that_is_enough(self) -> None:
        def looked_at(**values: Any) -> int:
            [highest] = seen(logits(0, 5000), 1.0)
            ids, kept = Sampler(GenerationSettings(**{**OFF, **values}), 0).candidates(highest)
            assert len(ids) == len(kept)
            return len(kept)

        assert looked_at(top_k=50) == looked_at(min_p=0.1) == FEW
        assert looked_at(top_k=64) == looked_at(top_p=0.95) == MANY
        assert looked_at(top_p=0.9999) == looked_at(min_p=1e-9) == 5000

    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: next(iter(rule)))
    @pytest.mark.parametrize("penalty", [1.0, 1.7])
    @pytest.mark.parametrize("temperature", [0.4, 1.0])
    def test_the_models_own_rules(
        self, rule: dict[str, Any], penalty: float, temperature: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = {**OFF, "temperature": temperature, "repetition_penalty": penalty}
        monkeypatch.setattr(models.model("llama"), "generation_config", GenerationConfig(**rule))
        rules = model_logits_processors(models.model("llama"), IDS.shape[1])
        found = ours(values, FLAT, rules)
        assert not torch.allclose(found, ours(values, FLAT))
        torch.testing.assert_close(found, theirs(values, FLAT, **rule))
        greedy = Sampler(GenerationSettings(temperature=0.0, repetition_penalty=penalty), 0, rules)
        assert greedy.looks_back
        assert greedy.choose(IDS, FLAT) == int(found.argmax())


@pytest.mark.parametrize("temperature", [1e-40, 5e-324, 9e-6, 1e-5, 1e-4])
@pytest.mark.parametrize("traced", [False, True])
def test_the_smallest_temperatures_take_the_likeliest_too(temperature: float, traced: bool) -> None:
    scores = logits(spread=10_000.0)
    sampler = Sampler(GenerationSettings(temperature=temperature), 1, traced=traced)
    assert sampler.choose(None, scores) == int(scores.argmax())


@given(st.integers(0, 100))
def test_temperature_zero_takes_the_likeliest(seed: int) -> None:
    assert Sampler(GenerationSettings(temperature=0.0), 0).choose(None, logits(seed)) == int(logits(seed).argmax())


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=some_of(20))
def test_the_same_seed_chooses_the_same_tokens(seed: int) -> None:
    assert chosen({"temperature": 1.5}, seed) == chosen({"temperature": 1.5}, seed)


def test_other_seeds_choose_other_tokens() -> None:
    assert len({tuple(chosen({"temperature": 1.5}, seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"temperature": 2.0},
        {"top_k": 12},
        {"top_p": 0.7},
        {"min_p": 0.05, "temperature": 1.3},
        {"top_k": 40, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.4},
    ],
)
@pytest.mark.parametrize("vocabulary", [models.VOCABULARY, pytest.param(30, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("count", [2000, pytest.param(6000, marks=pytest.mark.exhaustive)])
def test_draws_follow_the_probabilities(values: dict[str, Any], vocabulary: int, count: int) -> None:
    values, scores = {**OFF, **values}, logits(1, vocabulary, 1.0)
    wanted = theirs(values, scores)
    sampler = Sampler(GenerationSettings(**values), 17)
    drawn = Counter(sampler.choose(IDS if sampler.looks_back else None, scores) for _ in range(count))
    assert all(wanted[token] > 0 for token in drawn)
    # Chi-square over tokens that are likely enough, the others together.
    likely = [token for token in range(vocabulary) if wanted[token] * count >= 10]
    pairs = [(drawn[token], float(wanted[token]) * count) for token in likely]
    rest = (count - sum(seen for seen, _ in pairs), count - sum(expected for _, expected in pairs))
    pairs += [rest] if rest[1] > 5 else []
    distance = sum((seen - expected) ** 2 / expected for seen, expected in pairs)
    freedom = len(pairs) - 1
    assert freedom > 3
    assert distance < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("values", [{"temperature": 0.0}, {}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.5}])
@pytest.mark.parametrize("vocabulary", [models.VOCABULARY, 5000])
@pytest.mark.parametrize("where", [slice(7, 8), slice(None)], ids=["one", "all"])
def test_nan_is_an_error_of_this_reply(values: dict[str, Any], vocabulary: int, where: slice) -> None:
    broken = logits(0, vocabulary)
    broken[0, where] = float("nan")
    with pytest.raises(GenerationError, match="NaN"):
        Sampler(GenerationSettings(**{**OFF, **values}), 0).choose(None, broken)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("traced", [False, True])
def test_a_score_without_bounds_is_taken_and_is_no_error(kind: torch.dtype, traced: bool) -> None:
    scores = logits(0, 4000).to(kind)
    scores[0, 1234] = float("inf")
    assert Sampler(GenerationSettings(temperature=0.0), 0, traced=traced).choose(None, scores) == 1234


def test_tokens_of_no_probability_are_never_drawn() -> None:
    scores = torch.full((1, 300), float("-inf"))
    scores[0, [0, 299]] = 0.0
    sampler = Sampler(GenerationSettings(**OFF), 0)
    assert {sampler.choose(None, scores) for _ in range(200)} == {0, 299}


def test_nor_where_the_draw_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.full((1, 300), float("-inf"))
    scores[0, [3, 299]] = 0.0
    monkeypatch.setattr(torch, "rand", lambda *_, **options: torch.zeros((), dtype=options["dtype"]))
    assert Sampler(GenerationSettings(**OFF), 0).choose(None, scores) == 3


def test_half_precision_logits_are_chosen_from() -> None:
    assert 0 <= Sampler(GenerationSettings(), 0).choose(None, logits().to(torch.bfloat16)) < models.VOCABULARY


def test_logits_are_left_as_they_were() -> None:
    scores = logits()
    Sampler(GenerationSettings(top_k=5, repetition_penalty=1.5), 0).choose(IDS, scores)
    assert torch.equal(scores, logits())


@pytest.mark.parametrize(
    ("values", "looks"), [({}, False), ({"repetition_penalty": 1.1}, True), ({"no_repeat_ngram_size": 3}, True)]
)
def test_only_rules_about_the_past_need_the_past(values: dict[str, Any], looks: bool) -> None:
    assert Sampler(GenerationSettings(**values), 0).looks_back is looks


def test_rows_together_choose_what_each_chooses_alone() -> None:
    each: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.5, "top_k": 20, "repetition_penalty": 1.4},
        {"temperature": 1.0, "min_p": 0.05},
        OFF,
    ]
    scores = torch.cat([logits(row, 5000) for row in range(len(each))])
    scores[3, 7] = float("nan")

    def samplers() -> list[Sampler]:
        return [Sampler(GenerationSettings(**values), seed) for seed, values in enumerate(each)]

    together = choose_each(samplers(), [IDS] * len(each), scores)
    assert isinstance(together[3], GenerationError)
    for row, sampler in enumerate(samplers()):
        if row != 3:
            assert together[row] == sampler.choose(IDS, scores[row : row + 1])


@given(st.lists(VALUES, min_size=3, max_size=6), st.sampled_from([0.02, 1.0, 12.0]), st.integers(0, 99))
@settings(max_examples=some_of(30), deadline=None)
def test_whatever_their_settings(each: list[dict[str, Any]], spread: float, seed: int) -> None:
    scores = torch.cat([logits(seed + row, 5000, spread) for row in range(len(each))])
    many, alone = ([Sampler(GenerationSettings(**values), 7) for values in each] for _ in range(2))
    for _ in range(2):
        together = choose_each(many, [IDS] * len(each), scores)
        assert together == [one.choose(IDS, scores[row : row + 1]) for row, one in enumerate(alone)]
