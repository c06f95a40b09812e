"""Real tiny models behind the engine's protocol: together where attention is plain, else one after another."""

import copy
import dataclasses
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from chatui.chat import ChatRequest, Finish, Message, ReplyDelta
from chatui.engine.batching import attention_probe, compiling
from chatui.engine.batching.token_budget import TokenBudget
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.runners import batch_runner
from chatui.engine.runners.batch_runner import BatchRunner, open_batch_runner
from chatui.engine.runners.contract import ModelRunner, WriteReply
from chatui.engine.runners.open_model import open_model
from chatui.engine.runners.serial_runner import SerialRunner
from chatui.errors import ChatError, GenerationError, ModelError, PromptError, TooLongError
from chatui.estimates import ATTENTION_BLOCK, blocks_for
from chatui.generation_settings import GenerationSettings
from chatui.model_spec import ModelSpec
from tests import models
from tests.kv import flush

HELLO = (Message("system", "Be kind."), Message("user", "Hello there, who are you?"))
TOKEN = 256  # bytes of keys and values of the small models
MEMORY = (4 * blocks_for(512) + 1) * ATTENTION_BLOCK * TOKEN  # four conversations of their whole context
SMALL = 4 * ATTENTION_BLOCK * TOKEN
OTHERS = ("llama4", "mamba")


def own(kind: str = "llama") -> LoadedModel:
    """A loaded model that a test may change."""
    ready = models.ready(kind)
    return dataclasses.replace(ready, model=copy.deepcopy(ready.model))


def spec_of(**values: Any) -> ModelSpec:
    return ModelSpec("tiny", **{"kv_memory": MEMORY, **values})


def many(kind: str = "llama", **values: Any) -> BatchRunner:
    made = open_batch_runner(own(kind), spec_of(**values))
    assert made is not None
    return made


@cache
def shared(kind: str) -> BatchRunner:
    return many(kind)


def ask(messages: tuple[Message, ...] = HELLO, **values: Any) -> ChatRequest:
    asked = {
        name: values.pop(name)
        for name in ("no_truncation", "ignore_eos", "trace", "temporary_conversation")
        if name in values
    }
    return ChatRequest(messages, GenerationSettings(**{"temperature": 0.0, "max_new_tokens": 12, **values}), **asked)


def begin(model: ModelRunner, request: ChatRequest, queue_seconds: float = 0.0) -> object:
    return model.begin(model.prepare(request), queue_seconds, lambda: False)


def has_room(model: ModelRunner) -> bool:
    """Whether a short reply could begin."""
    return model.can_begin(model.prepare(ask()))


def run(model: ModelRunner, *requests: ChatRequest) -> list[list[ReplyDelta | ChatError]]:
    """What becomes of requests that begin at once."""
    handles = [begin(model, request) for request in requests]
    happened: dict[object, list[ReplyDelta | ChatError]] = {handle: [] for handle in handles}
    going = set(handles)
    while going:
        for handle, event in model.step():
            happened[handle].append(event)
            if isinstance(event, ChatError) or event.finish is not None:
                going.remove(handle)
    return [happened[handle] for handle in handles]


def text_of(events: list[ReplyDelta | ChatError]) -> str:
    return "".join(event.text for event in events if isinstance(event, ReplyDelta))


def finish_of(events: list[ReplyDelta | ChatError]) -> Finish:
    last = events[-1]
    assert isinstance(last, ReplyDelta)
    assert last.finish is not None
    return last.finish


def error_of(events: list[ReplyDelta | ChatError]) -> ChatError:
    assert isinstance(events[-1], ChatError)
    return events[-1]


def plain_spoken(kind: str) -> LoadedModel:
    """A model that writes letters alone, so that what it has written is read again as the same tokens."""
    loaded = own(kind)
    letters = len("".join(map(chr, range(ord("!"), ord("~") + 1))))
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight[letters:] = 0
    return loaded


class TestContinued:
    """A reply goes on from its text as it would have gone on by itself."""

    def check(self, model: ModelRunner, together: bool) -> None:
        [events] = run(model, ask())
        whole = text_of(events)
        assert len(whole) == finish_of(events).completion_tokens == 12
        assert len(set(whole)) > 2, "a model that repeats itself would prove nothing"
        cuts = (1, 5, 11)
        requests = [ask((*HELLO, Message("assistant", whole[:cut])), max_new_tokens=12 - cut) for cut in cuts]
        for cut, request in zip(cuts, requests, strict=True):
            [events] = run(model, request)
            assert text_of(events) == whole[cut:]
            finish = finish_of(events)
            assert finish.cached_tokens == (finish.prompt_tokens - 1 if together else 0)
        if together:
            assert [text_of(events) for events in run(model, *requests)] == [whole[cut:] for cut in cuts]

    @pytest.mark.parametrize("kind", models.PLAIN)
    def test_in_blocks(self, kind: str) -> None:
        model = open_batch_runner(plain_spoken(kind), spec_of(kv_memory=8 * MEMORY))
        assert model is not None
        self.check(model, together=True)

    @pytest.mark.parametrize("kind", models.CONFIGS)
    def test_one_by_one(self, kind: str) -> None:
        self.check(SerialRunner(plain_spoken(kind)), together=False)

    def test_a_sampled_rest_is_repeated_by_its_seed_and_penalties_count_what_was_there(self) -> None:
        model = shared("llama")
        start = (*HELLO, Message("assistant", "abc"))
        first, again = (run(model, ask(start, temperature=1.5, seed=7))[0] for _ in range(2))
        assert text_of(first) == text_of(again)
        penalty = {"repetition_penalty": 1.5}
        alone = SerialRunner(models.ready())
        assert text_of(run(model, ask(start, **penalty))[0]) == text_of(run(alone, ask(start, **penalty))[0])

    def test_a_start_that_cannot_be_continued_is_an_error_of_its_own(self) -> None:
        request = ask((Message("assistant", "Hi"),))
        with pytest.raises(PromptError, match="no message to answer"):
            shared("llama").prepare(request)
        [events] = run(SerialRunner(models.ready()), request)
        assert "no message to answer" in error_of(events).message


class TestWhich:
    @pytest.mark.parametrize("kind", [*models.PLAIN, *models.RECURRENT])
    def test_plain_attention_and_states_are_served_together(self, kind: str) -> None:
        assert open_batch_runner(own(kind), spec_of()) is not None

    @pytest.mark.parametrize("kind", OTHERS)
    def test_other_models_are_left_to_go_one_by_one(self, kind: str) -> None:
        loaded = own(kind)
        assert open_batch_runner(loaded, spec_of()) is None
        [events] = run(SerialRunner(loaded), ask())
        assert text_of(events) == text_of(run(SerialRunner(models.ready(kind)), ask())[0])

    def test_a_model_that_disagrees_goes_one_by_one_with_its_own_attention(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = own()
        monkeypatch.setattr(attention_probe, "matches_own_attention", lambda *_: False)
        assert open_batch_runner(loaded, spec_of()) is None
        [events] = run(SerialRunner(loaded), ask())
        assert text_of(events) == text_of(run(SerialRunner(models.ready()), ask())[0])

    def test_loading_chooses(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        for kind, expected in (("llama", BatchRunner), ("mamba2", BatchRunner), ("mamba", SerialRunner)):
            folder, phases = models.save(tmp_path_factory.mktemp(kind), kind), list[str]()
            model = open_model(ModelSpec(str(folder), compile="off", kv_memory=MEMORY), folder, phases.append)
            assert type(model) is expected
            assert phases[-1] == "making room for conversations"
            assert finish_of(run(model, ask())[0]).completion_tokens > 0

    @pytest.mark.parametrize("fused", [True, False])
    def test_a_step_is_compiled_where_the_layers_are_not_fused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fused: bool
    ) -> None:
        model, offered, begun = many(), list[object](), list[object]()
        step = model.batch.forward.step
        monkeypatch.setattr(batch_runner, "fuse", lambda *_: step if fused else None)
        monkeypatch.setattr(batch_runner, "fuse_prefill", lambda *_: None)
        monkeypatch.setattr(compiling, "compile_in_background", lambda *order: begun.append(order))
        monkeypatch.setattr(model.batch.forward, "offer", offered.append)
        model.use_faster_decode(spec_of(), tmp_path)
        assert offered == [step] * fused
        assert not begun
        run(model, ask(max_new_tokens=2))
        run(model, ask(max_new_tokens=2))
        assert len(begun) == (not fused), "after the first reply"

    def test_the_memory_is_kept_to_and_told(self) -> None:
        info = many(slots=16).info
        assert (info.slots, info.context_length, info.kv_tokens, info.kv_bytes) == (16, 512, 4 * 512, MEMORY)
        info = many(slots=2).info
        assert (info.slots, info.context_length, info.kv_tokens) == (2, 512, 2 * 512)
        info = (model := many(kv_memory=SMALL)).info
        assert (info.slots, info.context_length, info.kv_tokens) == (16, 192, 192)
        assert info.kv_bytes <= SMALL
        assert model.info.name == models.ready("llama").info.name

    def test_in_int8_it_holds_more_tokens(self) -> None:
        full, info = many(slots=16).info, many(slots=16, kv_dtype="int8").info
        assert full.kv_divergence is None
        assert info.kv_divergence is not None
        assert 0 < info.kv_divergence < 0.1
        assert info.kv_tokens > 3 * full.kv_tokens, "a head's 8 float32 take 32 bytes, in int8 10 with their scale"
        assert info.kv_bytes <= MEMORY
        assert full.anatomy is not None
        assert info.anatomy is not None
        assert (full.anatomy.kv_per_token, info.anatomy.kv_per_token) == (TOKEN, TOKEN * 5 // 16)

    def test_in_a_window_a_whole_conversation_takes_a_part_of_it(self, tmp_path: Path) -> None:
        loaded = models.loaded(models.save(tmp_path, "mistral_100"), compile="off")
        whole = (7 + 1) * ATTENTION_BLOCK * TOKEN  # of a conversation, with block 0
        for slots, memory, context, tokens in ((2, 10**9, 2048, 2 * 448), (2, whole, 2048, 448), (2, SMALL, 192, 192)):
            model = open_batch_runner(loaded, spec_of(slots=slots, kv_memory=memory))
            assert model is not None
            assert (model.info.context_length, model.info.kv_tokens) == (context, tokens)
            assert model.info.kv_bytes <= memory
            assert model.info.anatomy is not None
            assert (model.info.anatomy.window, model.info.anatomy.kv_per_token) == (100, TOKEN)

    def test_a_conversation_may_be_longer_than_all_blocks_of_a_window(self, tmp_path: Path) -> None:
        loaded = models.loaded(models.save(tmp_path, "mistral_100"), compile="off")
        asked = ask((Message("user", "x" * 900),), max_new_tokens=5)
        [expected] = run(SerialRunner(loaded), asked)
        model = open_batch_runner(loaded, spec_of(slots=1, kv_memory=8 * ATTENTION_BLOCK * TOKEN))
        assert model is not None
        assert model.info.kv_tokens == 448
        [events] = run(model, asked)
        assert finish_of(events).prompt_tokens > 900
        assert text_of(events) == text_of(expected)

    def test_a_model_without_blocks_says_that_it_has_no_int8(self, tmp_path: Path) -> None:
        spec = ModelSpec(str(models.save(tmp_path, "mamba")), compile="off")
        for each, notes in ((spec, 0), (dataclasses.replace(spec, kv_dtype="int8"), 1)):
            model = open_model(each, tmp_path, lambda _: None)
            assert len([note for note in model.info.notes if "not in int8" in note]) == notes

    def test_states_take_part_of_a_small_memory(self) -> None:
        state = 5632  # bytes of granite_hybrid's, beside 128 of K/V for a token
        for memory, slots, context in ((10**9, 16, 512), (16 * state, 2, 256), (state, 1, ATTENTION_BLOCK)):
            model = many("granite_hybrid", kv_memory=memory)
            assert model.info.slots == model.batch.max_rows == slots
            assert model.info.context_length == context
            held = model.info.kv_bytes - model.batch.forward.cache.nbytes
            assert held >= 3 * state
            assert memory <= state or held <= memory / 2
            assert finish_of(run(model, ask((Message("user", "hi"),), max_new_tokens=5))[0]).completion_tokens > 0

    def test_a_small_memory_shortens_the_context(self) -> None:
        model = many(kv_memory=SMALL)
        [events] = run(model, ask(max_new_tokens=400, ignore_eos=True))
        finish = finish_of(events)
        assert finish.prompt_tokens + finish.completion_tokens == 192
        with pytest.raises(TooLongError, match="room for"):
            model.prepare(ask((Message("user", "x" * 200),)))


SETTINGS: list[dict[str, Any]] = [
    {"seed": 0},
    {"temperature": 1.2, "seed": 1},
    {"temperature": 1.5, "top_p": 0.9, "seed": 2},
    {"temperature": 0.8, "top_k": 5, "repetition_penalty": 1.3, "seed": 3},
]


class TestBoth:
    @pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2", "gemma3", "gpt_oss"])
    def test_together_or_alone_the_text_is_the_same(self, kind: str) -> None:
        """With prompts far longer than the sliding windows."""
        serial, requests = SerialRunner(models.ready(kind)), [ask(**values) for values in SETTINGS]
        alone = [run(serial, request)[0] for request in requests]
        beside = run(shared(kind), *requests)
        assert len({text_of(events) for events in alone}) == len(SETTINGS)
        for one, other in zip(alone, beside, strict=True):
            assert text_of(one) == text_of(other)
            for name in ("reason", "prompt_tokens", "completion_tokens", "seed"):
                assert getattr(finish_of(one), name) == getattr(finish_of(other), name)

    @pytest.mark.parametrize("kind", ["llama", "gemma2"])
    def test_in_int8_the_text_is_the_same_beside_others(self, kind: str) -> None:
        requests = [ask(**values) for values in SETTINGS]
        alone = [run(many(kind, kv_dtype="int8"), request)[0] for request in requests]
        model = many(kind, kv_dtype="int8")
        beside, again = run(model, *requests), run(model, *requests)
        texts = [text_of(events) for events in alone]
        assert len(set(texts)) == len(SETTINGS)
        assert [text_of(events) for events in beside] == [text_of(events) for events in again] == texts
        assert all(finish_of(events).cached_tokens > 0 for events in again)

    @pytest.mark.parametrize("serial", [False, True], ids=["together", "serial"])
    def test_a_reply_from_its_prompt_to_its_finish(self, serial: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TokenBudget, "tokens", property(lambda _: 256, lambda *_: None), raising=False)
        model = SerialRunner(models.ready()) if serial else many()
        handle = begin(model, ask(ignore_eos=True), queue_seconds=1.5)
        events: list[Any] = []
        while not events or events[-1].finish is None:
            happened = model.step()
            assert {reply for reply, _ in happened} == {handle}
            events += [event for _, event in happened]
        assert events[0].prompt is not None
        assert all(event.prompt is None and event.tokens == 1 for event in events[1:])
        finish = finish_of(events)
        assert (finish.reason, finish.completion_tokens, finish.queue_seconds) == ("length", 12, 1.5)
        assert finish.prompt_tokens == len(events[0].prompt.token_ids)
        assert finish.prefill_seconds > 0
        assert finish.decode_seconds > 0
        assert has_room(model)
        assert model.step() == []

    @pytest.mark.parametrize("serial", [False, True], ids=["together", "serial"])
    def test_whole_conversations_and_those_that_are_too_long(self, serial: bool) -> None:
        model = SerialRunner(models.ready()) if serial else shared("llama")
        long = tuple(Message(role, "x" * 200) for _ in range(4) for role in ("user", "assistant"))
        for messages, whole in (((*long, HELLO[1]), True), ((Message("user", "x" * 600),), False)):
            with pytest.raises(TooLongError):
                raise error_of(run(model, ask(messages, no_truncation=whole))[0])
        [events] = run(model, ask((*long, HELLO[1])))
        assert finish_of(events).completion_tokens > 0

    @pytest.mark.parametrize("serial", [False, True], ids=["together", "serial"])
    def test_ended_before_its_first_step_nothing_comes_of_it(self, serial: bool) -> None:
        """Between begin() and step() the one who asked may leave."""
        model = SerialRunner(models.ready()) if serial else many()
        model.end(begin(model, ask()))
        assert model.step() == []
        assert has_room(model)
        assert text_of(run(model, ask())[0]) == text_of(run(shared("llama"), ask())[0])

    @pytest.mark.parametrize("serial", [False, True], ids=["together", "serial"])
    def test_ended_within_it_all_that_was_written_is_told_of(self, serial: bool) -> None:
        model = SerialRunner(models.ready()) if serial else many()
        handle = begin(model, ask(trace=True, ignore_eos=True))
        deltas: list[ReplyDelta] = []
        while sum(delta.tokens for delta in deltas) < 5:
            deltas += [delta for _, delta in model.step() if isinstance(delta, ReplyDelta)]
        model.end(handle)
        [so_far] = [delta.snapshot for delta in deltas if delta.snapshot is not None]
        told = so_far()
        assert told.finish is not None
        assert told.finish.reason == "cancelled"
        assert len(told.traces) == told.finish.completion_tokens == 5

    @pytest.mark.parametrize("serial", [False, True], ids=["together", "serial"])
    def test_reset_forgets_all(self, serial: bool) -> None:
        model = SerialRunner(own()) if serial else many(slots=4)
        for _ in range(1 if serial else 4):
            begin(model, ask())
        assert not has_room(model)
        model.step()
        model.reset()
        assert has_room(model)
        assert model.step() == []
        [events] = run(model, ask())
        assert finish_of(events).cached_tokens == 0
        assert text_of(events) == text_of(run(shared("llama"), ask())[0])

    @pytest.mark.parametrize("serial", [False, True], ids=["together", "serial"])
    def test_nan_in_the_weights_fails_the_reply_alone(self, serial: bool) -> None:
        loaded = own()
        model = SerialRunner(loaded) if serial else open_batch_runner(loaded, spec_of())
        assert model is not None
        norm = loaded.model.get_parameter("model.norm.weight")
        before = norm.detach().clone()
        with torch.no_grad():
            norm.fill_(NAN)
        with pytest.raises(GenerationError, match="NaN"):
            raise error_of(run(model, ask())[0])
        with torch.no_grad():
            norm.copy_(before)
        assert text_of(run(model, ask())[0]) == text_of(run(shared("llama"), ask())[0])

    @pytest.mark.parametrize("serial", [True, False], ids=["serial", "together"])
    def test_only_what_was_prepared_begins(self, serial: bool) -> None:
        model: ModelRunner = SerialRunner(models.ready()) if serial else shared("llama")
        with pytest.raises(TypeError):
            model.begin("anything", 0.0, lambda: False)


NAN = float("nan")
END_OF_THOUGHT = [
    models.tokenizer().convert_tokens_to_ids("Ċ"),
    264,
    *[models.tokenizer().convert_tokens_to_ids("Ċ")] * 2,
]
"""The ids of "\n</think>\n\n", whose tag is the last one of the vocabulary."""


def thinker(serial: bool) -> ModelRunner:
    loaded = models.ready(chat_template=models.THINKING)
    loaded = dataclasses.replace(loaded, model=copy.deepcopy(loaded.model))
    model = SerialRunner(loaded) if serial else open_batch_runner(loaded, spec_of())
    assert model is not None
    return model


class TestThoughts:
    """A thought that would not end by itself is ended, and the answer goes on as if the model had done that."""

    def check(self, events: Any, thought: int, length: int) -> None:
        """The reply has a thought of so many tokens, its end, and an answer, each token as `generate()` chooses it."""
        loaded = models.ready(chat_template=models.THINKING)
        prompt = next(event.prompt for event in events if event.prompt is not None)
        finish, traces = finish_of(events), events[-1].snapshot().traces
        ids, end = traces.chosen_ids, thought + len(END_OF_THOUGHT)
        assert finish.completion_tokens == len(ids) == length
        assert ids[thought:end] == END_OF_THOUGHT
        assert finish.forced_positions == tuple(range(thought, end))
        assert finish.reasoning_tokens == thought + 2, "up to the tag"
        assert 0 < finish.reasoning_seconds < finish.decode_seconds
        assert ids[:thought] == models.generate(loaded.model, prompt.token_ids, thought)
        answer = models.generate(loaded.model, [*prompt.token_ids, *ids[:end]], length - end)
        assert ids[end:] == answer
        assert loaded.decode(answer).startswith(text_of(events))
        assert [trace.rank > 1 for trace in traces][thought:end].count(True) > 0, "the model would not have said it"

    @pytest.mark.parametrize("serial", [False, True], ids=["together", "serial"])
    @pytest.mark.parametrize(
        ("values", "thought"), [({"thinking_budget": 7}, 7), ({}, 18), ({"thinking_budget": 1000}, 18)]
    )
    def test_a_budget_and_the_reserve_for_the_answer(self, serial: bool, values: dict[str, Any], thought: int) -> None:
        [events] = run(thinker(serial), ask(trace=True, ignore_eos=True, max_new_tokens=24, **values))
        self.check(events, thought, 24)

    def test_alone_or_beside_others_it_is_the_same(self) -> None:
        model = thinker(serial=False)
        budgets: list[dict[str, Any]] = [
            {"thinking_budget": 3},
            {"thinking_budget": 9, "temperature": 1.2, "seed": 3},
            {"temperature": 1.5, "top_p": 0.9, "seed": 4},
        ]
        requests = [ask(ignore_eos=True, max_new_tokens=40, **values) for values in budgets]
        alone = [run(model, request)[0] for request in requests]
        for one, other in zip(alone, run(model, *requests), strict=True):
            assert text_of(one) == text_of(other) != ""
            assert finish_of(one).forced_positions == finish_of(other).forced_positions != ()

    @pytest.mark.parametrize("serial", [False, True], ids=["together", "serial"])
    def test_it_answers_when_it_is_told_to(self, serial: bool) -> None:
        model = thinker(serial)
        handle = begin(model, ask(trace=True, ignore_eos=True, max_new_tokens=60))
        events: list[Any] = []
        while sum(event.tokens for event in events) < 5:
            events += [event for _, event in model.step()]
        model.answer_now(handle)
        while events[-1].finish is None:
            events += [event for _, event in model.step()]
        self.check(events, 5, 60)

    def test_until_it_is_done_is_up_to_the_context(self) -> None:
        [events] = run(thinker(serial=False), ask(ignore_eos=True, max_new_tokens=0))
        finish = finish_of(events)
        assert finish.prompt_tokens + finish.completion_tokens == models.ready().info.context_length
        assert finish.stopped_by == "the context of 512 tokens"
        assert text_of(events)


class TestBatchRunner:
    def test_as_many_as_may_be_answered_at_once(self) -> None:
        model = many(slots=2)
        handles = [begin(model, ask()) for _ in range(2)]
        assert not has_room(model)
        with pytest.raises(RuntimeError):
            begin(model, ask())
        model.end(handles[0])
        assert has_room(model)

    def test_the_share_of_the_kv_cache_that_running_replies_fill_is_told(self) -> None:
        model = many()
        assert model.kv_usage() == 0
        handles = [begin(model, ask(ignore_eos=True)) for _ in range(2)]
        found: list[float] = []
        for _ in range(8):
            model.step()
            found.append(model.kv_usage())
        assert found == sorted(found)
        assert 0 < found[0] < found[-1] <= 1
        model.end(handles[0])
        assert 0 < model.kv_usage() < found[-1]
        model.end(handles[1])
        assert model.kv_usage() == 0

    def test_what_was_cached_is_told(self) -> None:
        model = many()
        [first] = run(model, ask(max_new_tokens=5))
        assert finish_of(first).cached_tokens == 0
        more = (*HELLO, Message("assistant", text_of(first)), Message("user", "And?"))
        [second] = run(model, ask(more, max_new_tokens=5))
        finish = finish_of(second)
        assert finish_of(first).prompt_tokens <= finish.cached_tokens < finish.prompt_tokens
        assert isinstance(second[0], ReplyDelta)
        assert second[0].prefilled_tokens == finish.cached_tokens
        [again] = run(SerialRunner(models.ready()), ask(more, max_new_tokens=5))
        assert text_of(second) == text_of(again)

    def test_how_far_a_prompt_is_read_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TokenBudget, "tokens", property(lambda _: 16, lambda *_: None), raising=False)
        model = many()
        writer = begin(model, ask(max_new_tokens=400, ignore_eos=True))
        model.step()
        reader = begin(model, ask((Message("user", "x" * 300),), max_new_tokens=1))
        read: list[int | None] = []
        while len(read) < 2 or read[-1] is not None:
            read += [
                event.prefilled_tokens
                for handle, event in model.step()
                if handle is reader and isinstance(event, ReplyDelta)
            ]
        tokens = len(model.prepare(ask((Message("user", "x" * 300),))).prompt.token_ids)
        assert read == [*range(0, tokens, 16), None]
        model.end(writer)

    def test_a_reply_that_cannot_be_shown_fails_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = many()
        broken, fine = model.prepare(ask()), model.prepare(ask(temperature=1.0, seed=5))
        monkeypatch.setattr(broken, "push", lambda _: 1 / 0)
        handles = [model.begin(each, 0.0, lambda: False) for each in (broken, fine)]
        failed, written = list[ReplyDelta | ChatError](), list[ReplyDelta | ChatError]()
        while model.batch.rows:
            for handle, event in model.step():
                (failed if handle is handles[0] else written).append(event)
        assert isinstance(failed[-1], GenerationError)
        assert text_of(written) == text_of(run(SerialRunner(models.ready()), ask(temperature=1.0, seed=5))[0])
        assert has_room(model)


class TestSerial:
    def test_one_at_a_time(self) -> None:
        model = SerialRunner(models.ready())
        handle = begin(model, ask())
        assert not has_room(model)
        model.end("another")
        assert not has_room(model)
        model.end(handle)
        assert has_room(model)

    @pytest.mark.parametrize("kind", ["llama", "mamba2"])
    def test_it_stops_within_the_pass_that_reads_the_prompt(self, kind: str) -> None:
        loaded = own(kind)
        model, asked = SerialRunner(loaded), 0

        def is_cancelled() -> bool:
            nonlocal asked
            asked += 1
            return asked > 3

        model.begin(ask(), 0.0, is_cancelled)
        assert [event for _, event in model.step() if isinstance(event, ReplyDelta) and event.prompt]
        assert model.step() == []
        assert asked == 4
        assert has_room(model)
        assert not any(module._forward_pre_hooks for module in loaded.model.modules())
        assert text_of(run(model, ask())[0]) == text_of(run(SerialRunner(models.ready(kind)), ask())[0])

    def test_once_it_writes_nobody_is_asked_within_a_pass(self) -> None:
        loaded = own()
        model = SerialRunner(loaded)
        handle = begin(model, ask())
        while not any(isinstance(event, ReplyDelta) and event.tokens for _, event in model.step()):
            assert any(module._forward_pre_hooks for module in loaded.model.modules())
        assert not any(module._forward_pre_hooks for module in loaded.model.modules())
        model.end(handle)

    def test_a_reply_that_ends_closes_what_wrote_it(self) -> None:
        closed: list[str] = []

        def wrap(write: WriteReply) -> WriteReply:
            def wrapped(request: ChatRequest, queue_seconds: float) -> Generator[ReplyDelta]:
                try:
                    yield from write(request, queue_seconds)
                finally:
                    closed.append(request.messages[-1].content)

            return wrapped

        model = SerialRunner(own(), wrap)
        run(model, ask())
        assert closed == [HELLO[-1].content]
        for reset in (False, True):
            handle = begin(model, ask())
            model.step()
            if reset:
                model.reset()
            else:
                model.end(handle)
        assert len(closed) == 3
        assert not any(module._forward_pre_hooks for module in model.loaded.model.modules())

    @pytest.mark.parametrize(
        ("raised", "says"),
        [
            (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory"),
            (MemoryError(), "not enough memory"),
            (IndexError("index out of range"), "failed while writing .IndexError"),
        ],
    )
    def test_what_the_model_raises_becomes_one_error(self, raised: Exception, says: str) -> None:
        def broken(request: ChatRequest, queue_seconds: float) -> Generator[ReplyDelta]:
            yield ReplyDelta(tokens=1)
            raise raised

        model = SerialRunner(models.ready(), lambda _: broken)
        with pytest.raises(GenerationError, match=says) as caught:
            raise error_of(run(model, ask())[0])
        assert caught.value.remedy
        assert has_room(model)


def test_a_temporary_chat_is_remembered_until_it_is_over_and_then_nothing_of_it() -> None:
    model = many()
    pool, cache = model.batch.pool, model.batch.forward.cache
    [events] = run(model, ask(temporary_conversation="passing"))
    more = (*HELLO, Message("assistant", text_of(events)), Message("user", "Go on"))
    assert finish_of(run(model, ask(more, temporary_conversation="passing"))[0]).cached_tokens > 0
    model.forget("another")
    assert pool.cached > 0
    model.forget("passing")
    assert pool.cached == 0
    assert not any(tensor.any() for tensor in (*cache.keys, *cache.values))
    assert finish_of(run(model, ask(more))[0]).cached_tokens == 0


class TestDisk:
    """With --kv-cache-dir a conversation goes on after a restart without being read again."""

    def restarted(self, folder: Path, kind: str = "llama", **values: Any) -> BatchRunner:
        made = open_batch_runner(plain_spoken(kind), spec_of(kv_cache_dir=folder, **values))
        assert made is not None
        return made

    def second_turn(self, text: str) -> tuple[Message, ...]:
        return (*HELLO, Message("assistant", text), Message("user", "Go on"))

    def test_a_second_turn_after_a_restart_is_that_without_one(self, tmp_path: Path) -> None:
        staying = self.restarted(tmp_path / "other")
        [first] = run(before := self.restarted(tmp_path / "kv"), ask())
        flush(before.batch._disk._files)
        [again] = run(staying, ask())
        assert text_of(first) == text_of(again)
        model = self.restarted(tmp_path / "kv")
        [found], [expected] = (run(each, ask(self.second_turn(text_of(first)))) for each in (model, staying))
        assert text_of(found) == text_of(expected)
        finish = finish_of(found)
        assert finish.cached_tokens == finish_of(expected).cached_tokens
        assert finish.prompt_tokens > finish.cached_tokens > finish_of(first).prompt_tokens
        restored = [event.restored_tokens for event in found if isinstance(event, ReplyDelta)]
        assert sum(restored) == finish.cached_tokens
        [started, *_] = found
        assert isinstance(started, ReplyDelta)
        assert started.prefilled_tokens == 0

    def test_a_temporary_chat_leaves_no_file(self, tmp_path: Path) -> None:
        run(model := self.restarted(tmp_path), ask(temporary_conversation="passing"))
        flush(model.batch._disk._files)
        assert not list(tmp_path.rglob("*.kv"))

    def test_files_of_another_model_are_not_read(self, tmp_path: Path) -> None:
        run(model := self.restarted(tmp_path), ask())
        other = self.restarted(tmp_path, "qwen3")
        assert finish_of(run(other, ask())[0]).cached_tokens == 0
        for each in (model, other):
            flush(each.batch._disk._files)
        assert len({path.parent for path in tmp_path.rglob("*.kv")}) == 2

    def test_a_folder_that_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ModelError, match=r"cannot be kept.*--kv-cache-dir"):
            self.restarted(tmp_path / "file")
