"""The engine with the default model: alone, together, from a remembered start and through `generate()`, the same text.

In float32, where sums taken in another order do not decide between two tokens; in bfloat16 they sometimes do.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from chatui.chat import ChatRequest, Finish, Message, Prompt, TraceSnapshot
from chatui.engine.backend import LocalBackend
from chatui.engine.batching import attention
from chatui.engine.batching.fused_decode import fuse
from chatui.engine.batching.token_budget import MAX_TOKENS, TokenBudget
from chatui.engine.kernels import ops
from chatui.engine.loading import embedded, loader
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.loading.weights import release_memory
from chatui.engine.runners import batch_runner
from chatui.engine.sampling.sampler import Sampler
from chatui.generation_settings import GenerationSettings
from chatui.model_spec import ModelSpec
from chatui.settings import AppSettings
from chatui.traces import Traces
from tests import models
from tests.examples import some_of
from tests.kv import flush

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(embedded.find() is None, reason=f"needs the default model: {embedded.INSTALL}"),
]

NEW_TOKENS = max(8, some_of(16))
PERSONA = Message("system", "You are a helpful robot from 1986 who answers in one short sentence.")
QUESTIONS = ("What is the capital of France?", "Write a haiku about rain.", "Why is the sky blue?", "Count to ten.")
COPIED_TOKENS = 45
COPYING = (
    "Rewrite this text with one change: call the woman Maria instead of Anna. Write the whole text.\n\n"
    "The harbour lay quiet in the early morning, and only the gulls moved above the grey water. Anna carried two "
    "baskets of bread down to the pier, where the fishermen waited with cold hands and tired faces. She had known most "
    "of them since she was a child."
)
SETTINGS = GenerationSettings(temperature=0.0, max_new_tokens=NEW_TOKENS)
CANCELLED = 1000
# What a Python process may grow by for reasons of its own.
GROWTH_BYTES = 30e6


def spec_of(**values: Any) -> ModelSpec:
    return replace(ModelSpec.from_settings(AppSettings(**values)), compile="off")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return loader.load(spec_of(dtype="float32", quantization="none"), AppSettings().cache_dir, lambda _: None)


@contextmanager
def opened(loaded: LoadedModel, **values: Any) -> Iterator[LocalBackend]:
    """A backend for the model with these settings."""
    model = batch_runner.open_batch_runner(loaded, spec_of(**values))
    assert model is not None
    backend = LocalBackend(spec_of(**values), AppSettings().cache_dir, lambda *_: model).start()
    yield backend
    asyncio.run(backend.close())


@pytest.fixture
def backend(loaded: LoadedModel) -> Iterator[LocalBackend]:
    with opened(loaded) as backend:
        yield backend


async def reply(backend: LocalBackend, *messages: Message, user: str = "") -> tuple[str, Finish]:
    text, finish = "", None
    async for delta in backend.stream(ChatRequest((PERSONA, *messages), SETTINGS, user=user)):
        text, finish = text + delta.text, delta.finish or finish
    assert finish is not None
    return text, finish


def test_a_copied_text_is_the_same_with_drafts() -> None:
    spec = spec_of()
    loaded = loader.load(spec, AppSettings().cache_dir, lambda _: None)
    runner = batch_runner.open_batch_runner(loaded, spec)
    assert runner is not None
    batch = runner.batch
    ops.load(AppSettings().cache_dir)
    if (fused := fuse(batch.forward.step, batch.forward.cache)) is not None:
        batch.forward.offer(fused)
    # In bfloat16 the prompt must be read in the same pieces each time, whatever that takes, and by the same step.
    batch._budget = TokenBudget(1e9)
    batch._budget.tokens = MAX_TOKENS
    ids = models.prompt_ids(loaded.tokenizer, [{"role": "user", "content": COPYING}])

    def write(max_tokens: int, temperature: float) -> tuple[list[int], int]:
        batch.speculation.max_tokens, accepted = max_tokens, 0
        row = batch.add(tuple(ids), Sampler(GenerationSettings(temperature=temperature), 5))
        assert row is not None
        while len(row.output_ids) < COPIED_TOKENS:
            accepted += sum(event.accepted for event in batch.step())
        batch.finish(row)
        batch.pool.clear()
        return row.output_ids[:COPIED_TOKENS], accepted

    write(0, 0.0)
    for temperature in (0.0, 0.7):
        plain, none = write(0, temperature)
        drafted, accepted = write(spec.prompt_lookup_num_tokens, temperature)
        assert drafted == plain
        assert none == 0
        # Where PyTorch computes the layers, their rounding may depend on the number of rows, which forbids drafts.
        assert accepted > 10 or ops.name() == ""


@pytest.mark.parametrize("questions", [QUESTIONS[:2], pytest.param(QUESTIONS, marks=pytest.mark.exhaustive)], ids=len)
async def test_alone_together_from_a_remembered_start_and_by_generate(
    backend: LocalBackend, loaded: LoadedModel, questions: tuple[str, ...]
) -> None:
    asked = [Message("user", question) for question in questions]
    alone = [await reply(backend, message) for message in asked]
    assert alone[0][1].cached_tokens == 0
    assert all(finish.cached_tokens > 0 for _, finish in alone[1:]), "the persona is remembered"
    together = await asyncio.gather(*(reply(backend, message, user=message.content) for message in asked))
    assert [text for text, _ in together] == [text for text, _ in alone]
    for message, (text, _) in zip(asked, alone, strict=True):
        chat = [{"role": each.role, "content": each.content} for each in (PERSONA, message)]
        ids = models.prompt_ids(loaded.tokenizer, chat)
        loaded.model.set_attn_implementation("sdpa")
        whole = models.generate(loaded.model, ids, NEW_TOKENS)
        loaded.model.set_attn_implementation(attention.NAME)
        assert text == loaded.decode(whole)


async def test_the_probabilities_told_are_those_of_a_plain_forward_pass(
    backend: LocalBackend, loaded: LoadedModel
) -> None:
    async def traced(number: int, temperature: float) -> tuple[Prompt, Traces]:
        settings = GenerationSettings(temperature=temperature, top_p=0.9, max_new_tokens=24, seed=number)
        request = ChatRequest((PERSONA, Message("user", QUESTIONS[number])), settings, user=str(number), trace=True)
        prompt: Prompt | None = None
        snapshot: Callable[[], TraceSnapshot] = TraceSnapshot
        async for delta in backend.stream(request):
            prompt = delta.prompt or prompt
            snapshot = delta.snapshot or snapshot
        assert prompt is not None
        return prompt, snapshot().traces

    replies = await asyncio.gather(*(traced(number, temperature) for number, temperature in enumerate((0.0, 1.3))))
    loaded.model.set_attn_implementation("sdpa")
    try:
        for prompt, traces in replies:
            ids = [*prompt.token_ids, *traces.chosen_ids]
            with torch.inference_mode():
                shares = loaded.model(torch.tensor([ids])).logits[0].double().softmax(-1)
            assert len(traces) > 3
            for at, trace in enumerate(traces, len(prompt.token_ids) - 1):
                assert trace.probability == pytest.approx(float(shares[at, trace.id]), abs=1e-3)
                found = dict(zip(trace.ids, trace.steps[0], strict=True))
                assert found == pytest.approx({id: float(shares[at, id]) for id in trace.ids}, abs=1e-3)
    finally:
        loaded.model.set_attn_implementation(attention.NAME)


@pytest.mark.exhaustive  # the next test has the same over a restart
async def test_a_second_turn_reads_little_more_than_the_new_message(backend: LocalBackend) -> None:
    first = Message("user", "Tell me about the sea. " * 20)
    text, _ = await reply(backend, first)
    _, finish = await reply(backend, first, Message("assistant", text), Message("user", "Go on."))
    assert finish.cached_tokens > 0.85 * finish.prompt_tokens


# What is restored are blocks of 64 tokens: fewer of them show the same.
@pytest.mark.parametrize("sentences", [20, pytest.param(160, marks=pytest.mark.exhaustive)])
async def test_after_a_restart_a_second_turn_reads_only_the_new_message(
    loaded: LoadedModel, tmp_path: Path, sentences: int
) -> None:
    spec = replace(spec_of(), kv_cache_dir=tmp_path)

    async def in_new_runner(*messages: Message) -> tuple[str, Finish]:
        model = batch_runner.open_batch_runner(loaded, spec)
        assert model is not None
        backend = LocalBackend(spec, AppSettings().cache_dir, lambda *_: model).start()
        answered = await reply(backend, *messages)
        await backend.close()
        if spec.kv_cache_dir is not None:
            flush(model.batch._disk._files)
        return answered

    first = Message("user", "Tell me about the sea. " * sentences)
    text, before = await in_new_runner(first)
    asked = (first, Message("assistant", text), Message("user", "Go on."))
    found, finish = await in_new_runner(*asked)
    assert finish.prompt_tokens > 6 * sentences
    assert finish.cached_tokens == before.prompt_tokens + before.completion_tokens - 1
    assert finish.prompt_tokens - finish.cached_tokens < 20
    spec = spec_of()
    cold, finish = await in_new_runner(*asked)
    assert finish.cached_tokens == 0
    assert found == cold


def test_weights_and_blocks_take_what_was_said(loaded: LoadedModel) -> None:
    held = sum({tensor.data_ptr(): tensor.nbytes for tensor in loaded.model.state_dict().values()}.values())
    assert loaded.info.weight_bytes == pytest.approx(held, rel=0.1)
    release_memory()  # what earlier tests have left would be used again
    before = psutil.Process().memory_info().rss
    model = batch_runner.open_batch_runner(loaded, replace(spec_of(), slots=2))
    assert model is not None
    for tensor in (*model.batch.forward.cache.keys, *model.batch.forward.cache.values):
        tensor.fill_(1)
    grown = psutil.Process().memory_info().rss - before
    assert grown == pytest.approx(model.info.kv_bytes, rel=0.1)
    layers, heads, size = 30, 3, 64
    assert model.info.kv_bytes == pytest.approx(2 * layers * heads * size * 4 * 2 * model.info.context_length, rel=0.1)


@pytest.mark.exhaustive
def test_a_thousand_cancelled_requests_leave_no_memory_behind(loaded: LoadedModel) -> None:
    """Beyond keys and values, which are kept as long as there is room: there is little, so that it is soon taken."""
    with opened(loaded, kv_memory=0.2) as backend:
        asyncio.run(cancel_many(backend))


async def cancel_many(backend: LocalBackend) -> None:
    async def cancelled(number: int) -> None:
        message = Message("user", f"{number} {QUESTIONS[number % len(QUESTIONS)]}")
        stream = backend.stream(ChatRequest((PERSONA, message), SETTINGS, user=str(number % 7)))
        async for delta in stream:
            if delta.tokens or number % 3 == 0:
                break
        await stream.aclose()

    async def run(numbers: range) -> int:
        for start in range(numbers.start, numbers.stop, 8):
            await asyncio.gather(*map(cancelled, range(start, min(start + 8, numbers.stop))))
        memory: int = psutil.Process().memory_info().rss
        return memory

    await run(range(CANCELLED // 5))
    before = await run(range(CANCELLED // 5))
    assert await run(range(CANCELLED)) - before < GROWTH_BYTES
