"""What is told of each token: the probabilities of a plain forward pass, and what each step of the sampler left."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from chatui.chat import ChatRequest, Message, ReplyDelta
from chatui.engine.runners.serial_runner import generate_reply
from chatui.engine.sampling import tracing
from chatui.engine.sampling.filters import filters_of
from chatui.engine.sampling.sampler import FILTERS, Sampler, choose_each
from chatui.generation_settings import GenerationSettings
from chatui.traces import ALTERNATIVES, Traces
from tests import models
from tests.examples import some_of

VOCABULARY = 700


def logits_of(seed: int, rows: int = 1, sharp: float = 3.0) -> torch.Tensor:
    return sharp * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def traced(settings: GenerationSettings, logits: torch.Tensor, before: list[int] | None = None) -> Traces:
    """One reply whose steps have these logits."""
    sampler = Sampler(settings, 1, traced=True)
    ids = list(before or [1, 2, 3])
    assert sampler.trace is not None
    for row in logits:
        [token] = choose_each([sampler], [torch.tensor([ids])], row[None])
        assert isinstance(token, int)
        ids.append(token)
    return sampler.trace.traces()


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.3, 1.0, 1.7]), st.floats(0.1, 8.0))
@hypothesis_settings(max_examples=some_of(50), deadline=None)
def test_probability_rank_and_entropy_are_the_models_own(seed: int, temperature: float, sharp: float) -> None:
    logits = logits_of(seed, 3, sharp)
    for row, trace in zip(logits, traced(GenerationSettings(temperature=temperature), logits), strict=True):
        exact = row.double().softmax(-1)
        assert trace.probability == pytest.approx(float(exact[trace.id]), abs=1e-5)
        assert trace.rank == int((row > row[trace.id]).sum()) + 1
        assert trace.entropy == pytest.approx(float(-(exact * exact.log2()).sum()), abs=1e-3)
        assert list(trace.ids[:ALTERNATIVES]) == row.topk(ALTERNATIVES).indices.tolist()
        assert trace.id in trace.ids
        assert trace.names[0] == "model"
        assert trace.steps[0] == pytest.approx([float(exact[id]) for id in trace.ids], abs=1e-5)


SETTINGS = st.builds(
    GenerationSettings,
    temperature=st.sampled_from([0.4, 1.0, 1.5]),
    top_k=st.sampled_from([0, 1, 5, 50, 200]),
    top_p=st.sampled_from([0.2, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
)


@given(SETTINGS, st.integers(0, 1000), st.floats(0.1, 6.0))
@hypothesis_settings(max_examples=some_of(80), deadline=None)
def test_each_step_leaves_what_transformers_would(settings: GenerationSettings, seed: int, sharp: float) -> None:
    logits = logits_of(seed, 1, sharp)
    [trace] = traced(settings, logits, [3, 5])
    expected = [("model", logits.double())]
    scores = logits
    if settings.repetition_penalty != 1.0:
        scores = scores.clone()
        for id in (3, 5):
            scores[0, id] *= settings.repetition_penalty if scores[0, id] < 0 else 1 / settings.repetition_penalty
        expected.append(("penalties", scores))
    if settings.temperature != 1.0:
        scores = scores / settings.temperature
        expected.append(("temperature", scores))
    for name in filters_of(settings):
        scores = FILTERS[name](getattr(settings, name))(torch.empty(1, 0, dtype=torch.long), scores)
        expected.append((name, scores))
    assert trace.names == tuple(name for name, _ in expected)
    for (_, wanted), found in zip(expected, trace.steps, strict=True):
        shares = wanted.double().softmax(-1)[0]
        assert found == pytest.approx([float(shares[id]) for id in trace.ids], abs=1e-4)
    assert trace.steps[-1][trace.ids.index(trace.id)] > 0


def test_rows_are_traced_apart_and_only_where_wanted() -> None:
    logits = logits_of(5, 3)
    settings = GenerationSettings(temperature=0.8)
    samplers = [Sampler(settings, 1, traced=True), Sampler(settings, 2), Sampler(settings, 3, traced=True)]
    chosen = choose_each(samplers, [None] * 3, logits)
    assert samplers[1].trace is None
    for row in (0, 2):
        trace = samplers[row].trace
        assert trace is not None
        [told] = trace.traces()
        assert told.id == chosen[row]
        assert told.probability == pytest.approx(float(logits[row].softmax(-1)[told.id]), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("watched", [False, True])
def test_who_is_told_of_in_other_ways_from_step_to_step_is_told_the_same(temperature: float, watched: bool) -> None:
    """A neighbour who draws makes steps look further, one with a flat distribution at all scores."""
    settings = GenerationSettings(temperature=temperature, top_p=0.5)
    flat, own = 0.01 * logits_of(3, 6), logits_of(4, 6, 8.0)
    sampler = Sampler(settings, 1, traced=True)
    neighbour = Sampler(GenerationSettings(temperature=0.8, top_p=0.5), 2, traced=watched)
    for at in range(6):
        if at == 4:
            choose_each([sampler], [None], own[at : at + 1])
        else:
            choose_each([sampler, neighbour], [None] * 2, torch.stack((own[at], (flat if at % 2 else own)[at])))
    trace = sampler.trace
    assert trace is not None
    found, alone = trace.traces(), traced(settings, own)
    assert len(found) == 6
    for told, expected in zip(found, alone, strict=True):
        assert (told.id, told.rank, told.names) == (expected.id, expected.rank, expected.names)
        assert told.entropy == pytest.approx(expected.entropy, abs=1e-5)
        for step, wanted in zip(told.steps, expected.steps, strict=True):
            assert dict(zip(told.ids, step, strict=True)) == pytest.approx(
                dict(zip(expected.ids, wanted, strict=True)), abs=1e-5
            )


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_each_reply_is_told_of_with_as_many_alternatives_as_it_asks_for(temperature: float, penalty: float) -> None:
    """Whoever is beside it, and in whichever way a step is looked at."""
    own, flat = logits_of(4, 6, 8.0), 0.01 * logits_of(3, 6)
    settings = GenerationSettings(temperature=temperature, repetition_penalty=penalty, top_p=0.5)
    few = Sampler(settings, 1, traced=True, alternatives=1)
    many = Sampler(settings, 1, traced=True, alternatives=20)
    ids = torch.tensor([[1, 2, 3]])
    for at in range(6):
        other = (flat if at % 2 else own)[at]
        choose_each([few, many], [ids] * 2, torch.stack((own[at], other)))
    for sampler, count in ((few, 1), (many, 20)):
        assert sampler.trace is not None
        traces = sampler.trace.traces()
        assert len(traces) == 6
        for at, told in enumerate(traces):
            row = own[at] if sampler is few or at % 2 == 0 else flat[at]
            likeliest = row.topk(count)
            shares = row.double().softmax(-1)[likeliest.indices]
            assert list(told.ids[:count]) == likeliest.indices.tolist()
            assert told.steps[0][:count] == pytest.approx(shares.tolist(), abs=1e-5)
            assert told.id in told.ids


def test_little_is_kept_of_tokens_drawn_among_a_whole_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    filtered = VOCABULARY * 4 * 2  # bytes that top-p and min-p leave of each token
    monkeypatch.setattr(tracing, "MAX_BYTES", 3 * filtered)
    # So flat that not even the likeliest MANY have the share of top-p.
    logits, settings = logits_of(8, 20, 0.01), GenerationSettings(temperature=1.5, top_p=0.99, min_p=0.01)
    sampler, kept = Sampler(settings, 1, traced=True), list[int]()
    trace = sampler.trace
    assert trace is not None
    for row in logits:
        choose_each([sampler], [None], row[None])
        kept.append(sum(scores.nbytes for choice in trace._choices for _, scores in choice.filters))
    assert max(kept) == 2 * filtered
    monkeypatch.setattr(tracing, "MAX_BYTES", 2**30)
    for told, expected in zip(trace.traces(), traced(settings, logits), strict=True):
        assert (told.ids, told.names) == (expected.ids, expected.names)
        assert sum(told.steps, ()) == pytest.approx(sum(expected.steps, ()))


@pytest.mark.parametrize("count", [1, 15])
def test_a_request_says_how_many_alternatives_it_wants(count: int) -> None:
    settings = GenerationSettings(max_new_tokens=3, temperature=0.0)
    request = ChatRequest((Message("user", "Hi"),), settings, ignore_eos=True, trace=True, alternatives=count)
    *_, last = generate_reply(models.ready(), request)
    assert last.snapshot is not None
    # The chosen token, the likeliest, is one of them.
    assert [len(trace.ids) for trace in last.snapshot().traces] == [count] * 3


def test_tokens_are_noted_while_others_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, logits = Sampler(GenerationSettings(temperature=0.0), 1, traced=True), logits_of(7, 3)
    trace = sampler.trace
    assert trace is not None
    made = tracing._made

    def meanwhile(*arguments: Any) -> Traces:
        if len(noted) < 3:
            choose_each([sampler], [None], logits[len(noted)][None])
            noted.append(len(noted))
        return made(*arguments)

    choose_each([sampler], [None], logits[:1])
    noted = [0]
    monkeypatch.setattr(tracing, "_made", meanwhile)
    assert [len(trace.traces()) for _ in range(3)] == [1, 2, 3]
    assert trace.traces().chosen_ids == logits.argmax(-1).tolist()


def test_a_trace_changes_no_choice() -> None:
    logits = logits_of(7, 40)
    for temperature in (0.0, 0.9):
        settings = GenerationSettings(temperature=temperature, top_p=0.9)
        plain, watched = Sampler(settings, 5), Sampler(settings, 5, traced=True)
        for row in logits:
            assert choose_each([plain], [None], row[None]) == choose_each([watched], [None], row[None])


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_reply_tells_of_all_its_tokens_whenever_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    monkeypatch.setattr(tracing, "TOGETHER", 16)
    loaded = models.loaded(models.save(tmp_path, "llama"))
    settings = GenerationSettings(max_new_tokens=40, temperature=temperature, seed=1)
    request = ChatRequest((Message("user", "Hello"),), settings, ignore_eos=True, trace=True)
    deltas: list[ReplyDelta] = []
    for delta in generate_reply(loaded, request):
        deltas.append(delta)
        if len(deltas) in (1, 2, 16, 17, 20):
            assert deltas[0].snapshot is not None
            told = deltas[0].snapshot()
            assert told.finish is not None
            assert len(told.traces) == told.finish.completion_tokens == len(deltas) - 1
            assert told.finish.prefill_seconds > 0
    so_far = deltas[0].snapshot
    assert so_far is not None
    traces = so_far().traces
    assert len(traces) == 40
    sent = pickle.loads(pickle.dumps(deltas))
    assert [len(delta.snapshot().traces) for delta in sent if delta.snapshot is not None] == [40, 40, 40]
    assert sent[-1].snapshot() == so_far()
    assert traces.at == sorted(traces.at)
    prompt = deltas[0].prompt
    assert prompt is not None
    ids = [*prompt.token_ids, *traces.chosen_ids]
    with torch.inference_mode():
        output: Any = loaded.model(torch.tensor([ids]))
    exact = output.logits[0].double().softmax(-1)
    for at, trace in enumerate(traces):
        shares = exact[len(prompt.token_ids) + at - 1]
        assert trace.probability == pytest.approx(float(shares[trace.id]), abs=1e-3)
    untraced = list(generate_reply(loaded, ChatRequest(request.messages, settings, ignore_eos=True)))
    assert not any(delta.snapshot for delta in untraced)
    assert "".join(delta.text for delta in untraced) == "".join(delta.text for delta in deltas)
