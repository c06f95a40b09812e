"""The remote backend against servers that answer as they are told to."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.responses import PlainTextResponse, StreamingResponse

from chatui.chat import ChatRequest, Finish, Message, Prompt
from chatui.errors import ChatError, GenerationError, ModelError, TooLongError
from chatui.generation_settings import GenerationSettings
from chatui.remote import backend as backend_module
from chatui.remote import reply_stream
from chatui.remote.backend import RemoteBackend
from chatui.remote.backend_spec import BackendSpec, ReplicaSpec
from tests.ports import reserved_port
from tests.remote_servers import Answer, FakeServer, chunk, error, reply, serving

VLLM = {"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 1000}
ASKED = ChatRequest((Message("system", ""), Message("user", "Hi")), GenerationSettings(seed=1))


@asynccontextmanager
async def backend_of(*servers: FakeServer, max_requests: int = 8) -> AsyncIterator[RemoteBackend]:
    replicas = tuple(ReplicaSpec(server.url, {"Authorization": "Bearer sk-1"}) for server in servers)
    backend = RemoteBackend(BackendSpec(replicas, "team", max_requests=max_requests)).start()
    await asyncio.to_thread(backend.wait)
    try:
        yield backend
    finally:
        await backend.close()


@dataclasses.dataclass
class Got:
    text: str = ""
    reasoning: str = ""
    finish: Finish | None = None
    prompt: Prompt | None = None
    positions: list[int] = dataclasses.field(default_factory=list)


async def ask(backend: RemoteBackend, request: ChatRequest = ASKED) -> Got:
    got = Got()
    async for delta in backend.stream(request):
        got.text, got.reasoning = delta.apply_to(got.text, got.reasoning)
        got.finish, got.prompt = delta.finish or got.finish, delta.prompt or got.prompt
        if delta.queue_position is not None:
            got.positions.append(delta.queue_position)
    return got


async def answered(answer: Answer, model: dict[str, object] | None = None, request: ChatRequest = ASKED) -> Got:
    with serving(FakeServer([answer], [model or VLLM])) as server:
        async with backend_of(server) as backend:
            return await ask(backend, request)


async def test_a_reply_with_its_usage() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    got = await answered(reply("Hello", " you", usage=usage))
    assert got.text == "Hello you"
    assert got.finish is not None
    assert (got.finish.reason, got.finish.prompt_tokens, got.finish.cached_tokens) == ("stop_token", 9, 4)
    assert got.prompt is not None
    assert got.prompt.messages == (Message("user", "Hi"),)


async def test_where_our_stop_string_ends_a_reply_its_prompt_is_counted_by_the_server() -> None:
    stops = ("never",) * 4 + ("END",)
    asked = dataclasses.replace(ASKED, settings=ASKED.settings.model_copy(update={"stop": stops}))
    endless = ["Hello", "END", *(["more"] * 100)]
    routes = {"/tokenize": {"tokens": [1, 2, 3], "token_strs": ["a", "b", "c"]}}
    with serving(FakeServer([endless], [VLLM], routes)) as server:
        async with backend_of(server) as backend:
            got = await ask(backend, asked)
            server.routes.clear()
            untold = await ask(backend, asked)
    assert got.finish is not None
    assert (got.text, got.finish.told_prompt_tokens, got.finish.told_cached_tokens) == ("Hello", 3, None)
    assert untold.finish is not None
    assert untold.finish.told_prompt_tokens is None


@pytest.mark.parametrize(
    "answer",
    [
        [chunk({"reasoning": "hm"}), "yes", chunk({}, "stop")],
        [chunk({"reasoning_content": "hm"}), "yes", chunk({}, "stop")],
        ["<think>\nh", "m\n</th", "ink>\n\nyes", chunk({}, "stop")],
        [chunk({"reasoning_content": "hm", "content": "yes"}), chunk({}, "stop")],
    ],
    ids=["vllm", "reasoning_content", "tags", "at once"],
)
async def test_thoughts_come_in_fields_or_between_tags(answer: Answer) -> None:
    got = await answered(answer)
    assert (got.reasoning, got.text) == ("hm", "yes")


async def test_the_end_needs_no_done_and_no_reason() -> None:
    assert (await answered(["Hello"])).text == "Hello"
    assert (await answered([chunk({"content": "Hello"}, "length")])).finish is not None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([], "before it began"),
        ([b": ping\n\n", b"data: [DONE]\n\n"], "before it began"),
        (["Hel", {"error": {"message": "out of memory"}}], "out of memory"),
        (["Hel", b'data: {"choices": [\n\n'], "no JSON"),
        (error(200, {"error": {"message": "no such thing"}}), "no such thing"),
        (error(401, {"error": "no"}), "does not accept"),
        (error(302, {}, location="http://169.254.169.254/"), "redirects"),
    ],
)
async def test_failures_say_what_they_are(answer: Answer, said: str) -> None:
    with pytest.raises(ChatError, match=said):
        await answered(answer)


async def test_a_whole_completion_in_place_of_a_stream() -> None:
    body = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}
    assert (await answered(error(200, body))).text == "Hello"


async def test_only_fields_that_the_server_takes_are_sent() -> None:
    settings = GenerationSettings(top_k=5, min_p=0.1, no_repeat_ngram_size=2, seed=1, stop=("a",), thinking="off")
    with serving(FakeServer(models=[VLLM])) as vllm, serving(FakeServer()) as other:
        for server in (vllm, other):
            async with backend_of(server) as backend:
                await ask(backend, dataclasses.replace(ASKED, settings=settings))
    assert {"top_k", "min_p", "chat_template_kwargs", "stop"} <= set(vllm.bodies[0])
    assert "no_repeat_ngram_size" not in vllm.bodies[0]
    assert not {"top_k", "min_p", "chat_template_kwargs", "repetition_penalty"} & set(other.bodies[0])
    assert vllm.headers[-1]["authorization"] == "Bearer sk-1"


async def test_a_refused_field_is_left_out_from_then_on() -> None:
    refusal = error(400, {"error": {"message": "Unrecognized request argument supplied: min_p"}})
    with serving(FakeServer([refusal, reply("Hello")], [VLLM])) as server:
        async with backend_of(server) as backend:
            got = await ask(backend)
            assert got.text == "Hello"
            assert got.prompt is not None
            assert "min_p" in got.prompt.notes[0]
            await ask(backend)
            info = backend.models()[0].info
            assert info is not None
            assert info.server is not None
            assert "min_p" in info.server.unsupported
    assert ["min_p" in body for body in server.bodies] == [True, False, False]


async def test_a_conversation_that_is_too_long_loses_its_oldest_turns() -> None:
    def answer(body: dict[str, object]) -> Answer:
        messages = body["messages"]
        assert isinstance(messages, list)
        if len(messages) > 4:
            return error(400, {"error": {"message": "This model's maximum context length is 10 tokens"}})
        return reply("Hello")

    turns = tuple(Message(role, f"{role} {n}") for n in range(9) for role in ("user", "assistant"))
    request = dataclasses.replace(ASKED, messages=(Message("system", "S"), *turns, Message("user", "last")))
    with serving(FakeServer([answer], [VLLM])) as server:
        async with backend_of(server) as backend:
            got = await ask(backend, request)
            assert got.prompt is not None
            sent = server.bodies[-1]["messages"]
            assert (sent[0]["content"], sent[-1]["content"]) == ("S", "last")
            assert got.prompt.dropped == len(request.messages) - len(sent)
            with pytest.raises(TooLongError):
                await ask(backend, dataclasses.replace(request, no_truncation=True))


async def test_roles_are_folded_where_the_template_wants_it() -> None:
    def answer(body: dict[str, object]) -> Answer:
        messages = body["messages"]
        assert isinstance(messages, list)
        if any(message["role"] == "system" for message in messages):
            return error(500, {"error": {"message": "Jinja Exception: System role not supported"}})
        return reply(messages[0]["content"])

    with serving(FakeServer([answer], [VLLM])) as server:
        async with backend_of(server) as backend:
            request = dataclasses.replace(ASKED, messages=(Message("system", "S"), Message("user", "Hi")))
            assert (await ask(backend, request)).text == "S\n\nHi"
            assert (await ask(backend, request)).text == "S\n\nHi"
    assert len(server.bodies) == 3


async def test_continuing() -> None:
    request = dataclasses.replace(ASKED, messages=(Message("user", "Hi"), Message("assistant", "Hel")))
    with serving(FakeServer(models=[VLLM])) as server:
        async with backend_of(server) as backend:
            await ask(backend, request)
    assert server.bodies[0]["continue_final_message"] is True
    with pytest.raises(ChatError, match="cannot go on"):
        await answered(reply("x"), {"id": "m", "owned_by": "someone"}, request)


async def test_our_limits_hold_where_the_server_was_not_told() -> None:
    refusal = error(400, {"error": {"message": "Unsupported parameter: 'max_tokens'"}})
    request = dataclasses.replace(ASKED, settings=GenerationSettings(max_new_tokens=2, seed=1))
    with serving(FakeServer([refusal, ["a", "b", "c", 60.0]], [VLLM])) as server:
        async with backend_of(server) as backend:
            got = await ask(backend, request)
            assert got.text == "ab"
            assert got.finish is not None
            assert got.finish.reason == "length"


async def test_stop_closes_the_connection() -> None:
    with serving(FakeServer([["a"] * 5 + [0.02, "b"] * 3000], [VLLM])) as server:
        async with backend_of(server) as backend:
            stream = backend.stream(ASKED)
            async for delta in stream:
                if delta.text:
                    break
            assert server.running == 1
            await stream.aclose()
            async with asyncio.timeout(5):
                while server.running:
                    await asyncio.sleep(0.01)
            assert (await ask(backend, dataclasses.replace(ASKED, settings=GenerationSettings(stop=("b",))))).text


async def test_a_busy_server_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_stream, "BUSY_PAUSE", 0.01)
    busy = error(429, {"error": {"message": "slow down"}}, retry_after="0")
    loading = error(503, {"error": {"message": "Loading model"}})
    with serving(FakeServer([busy, loading, reply("Hello")], [VLLM])) as server:
        async with backend_of(server) as backend:
            got = await ask(backend)
            assert (got.text, got.positions) == ("Hello", [1, 1])
            monkeypatch.setattr(reply_stream, "MAX_BUSY_SECONDS", 0.0)
            server.answers = [error(429, {"error": {"message": "slow down"}}, retry_after="7")]
            with pytest.raises(ChatError, match="slow down"):
                await ask(backend)


async def test_another_server_takes_over_before_the_first_token_only() -> None:
    with serving(FakeServer(models=[VLLM])) as first, serving(FakeServer(models=[VLLM])) as second:
        async with backend_of(first, second) as backend:
            await ask(backend)
            used, other = (first, second) if first.bodies else (second, first)
            used.answers = [error(500, {"error": "boom"})]
            assert (await ask(backend)).text == "Hello there"
            assert len(other.bodies) == 1
            used.answers = other.answers = [["Hel", {"error": {"message": "boom"}}]]
            with pytest.raises(GenerationError, match="boom"):
                await ask(backend)


async def test_turns_of_a_conversation_go_to_the_same_server() -> None:
    with serving(FakeServer(models=[VLLM])) as first, serving(FakeServer(models=[VLLM])) as second:
        async with backend_of(first, second) as backend:
            for talk in range(12):
                turns: list[Message] = []
                before = len(first.bodies), len(second.bodies)
                for turn in range(3):
                    turns += [Message("user", f"talk {talk} turn {turn}")]
                    await ask(backend, dataclasses.replace(ASKED, messages=tuple(turns)))
                    turns += [Message("assistant", "x")]
                assert (len(first.bodies) - before[0], len(second.bodies) - before[1]) in ((3, 0), (0, 3))
    assert first.bodies
    assert second.bodies


async def test_balancers_are_told_which_conversation_it_is() -> None:
    with serving(FakeServer(models=[VLLM])) as server:
        async with backend_of(server) as backend:
            server.headers.clear()
            for turns in (("a",), ("a", "b", "c"), ("d",)):
                messages = tuple(Message("assistant" if turn == "b" else "user", turn) for turn in turns)
                await ask(backend, dataclasses.replace(ASKED, messages=messages))
    begun, gone_on, other = (each["x-session-id"] for each in server.headers if "x-session-id" in each)
    assert begun == gone_on != other


async def test_a_dead_server_is_told_at_once_and_found_when_it_is_back() -> None:
    with reserved_port() as port:
        backend = RemoteBackend(BackendSpec((ReplicaSpec(f"http://127.0.0.1:{port}"),), "team")).start()
        with pytest.raises(ModelError, match="cannot be reached"):
            await asyncio.to_thread(backend.wait)
        (status,) = backend.models()
        assert (status.name, status.state) == ("team", "failed")
        with pytest.raises(ModelError, match="cannot be reached"):
            await ask(backend)
        await backend.close()


async def test_a_model_stays_listed_while_its_server_is_away() -> None:
    with serving(FakeServer(models=[VLLM])) as server:
        async with backend_of(server) as backend:
            assert [status.name for status in backend.models()] == ["team/m"]
            server.models = httpx_error()
            backend._replicas[0].check()
            async with asyncio.timeout(5):
                while backend.models()[0].state == "ready":
                    await asyncio.sleep(0.01)
            status = backend.models()[0]
            assert (status.name, status.state) == ("team/m", "failed")


def httpx_error() -> object:
    return error(500, {"error": "down"})


async def test_probabilities_and_their_texts() -> None:
    def token(text: str, logprob: float) -> dict[str, object]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    told = {**token("Hello", -0.1), "top_logprobs": [token("Hello", -0.1), token("Hi", -2.5)]}
    first = {"choices": [{"delta": {"content": "Hello"}, "logprobs": {"content": [told]}, "finish_reason": None}]}
    request = dataclasses.replace(ASKED, trace=True, alternatives=2)
    with serving(FakeServer([[first, chunk({}, "stop")]], [VLLM])) as server:
        async with backend_of(server) as backend:
            snapshots = [delta.snapshot async for delta in backend.stream(request) if delta.snapshot]
            (trace,) = snapshots[-1]().traces
            texts = backend.decode_tokens(set(trace.ids), "team/m")
            assert ([texts[id] for id in trace.ids], trace.rank) == (["Hello", "Hi"], 1)
            assert trace.probability == pytest.approx(0.905, abs=0.001)
    assert server.bodies[0]["top_logprobs"] == 2


async def test_activity_is_asked_for_once_a_second_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "ACTIVITY_SECONDS", 0.5)
    running = iter(range(3, 10))

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"\n"
            await asyncio.sleep(0.05)

    silent = FakeServer(models=[VLLM], routes={"/metrics": StreamingResponse(endless())})
    told = FakeServer(
        models=[VLLM],
        routes={"/metrics": lambda _: PlainTextResponse(f'vllm:num_requests_running{{engine="0"}} {next(running)}')},
    )
    with serving(told), serving(silent):
        async with backend_of(told, silent) as backend:
            first = await backend.activity()
            assert first is not None
            assert (first.running, first.waiting) == (3, None)
            assert await backend.activity("team/m") is first
            await asyncio.sleep(0.5)
            later = await backend.activity()
            assert later is not None
            assert later.running == 4
            assert await backend.activity("team/other") is None


async def test_at_most_so_many_at_once() -> None:
    with serving(FakeServer([["a", 0.05, "b", chunk({}, "stop")]], [VLLM])) as server:
        async with backend_of(server, max_requests=1) as backend:
            got = await asyncio.gather(*(ask(backend) for _ in range(3)))
            assert [each.text for each in got] == ["ab"] * 3
            assert sorted(each.positions for each in got) == [[], [1], [2, 1]]


async def test_what_one_chat_needs_is_no_rule_for_others() -> None:
    """A long chat lost its oldest turns, and then its roles were refused: only the roles are remembered."""

    def answer(body: dict[str, object]) -> Answer:
        messages = body["messages"]
        assert isinstance(messages, list)
        if len(messages) > 4:
            return error(400, {"error": {"message": "This model's maximum context length is 10 tokens"}})
        if messages[0]["role"] == "system":
            return error(400, {"error": {"message": "System role not supported"}})
        return reply("Hello")

    turns = tuple(Message(role, f"{role} {n}") for n in range(9) for role in ("user", "assistant"))
    system = Message("system", "a long persona " * 50)
    long = dataclasses.replace(ASKED, messages=(system, *turns, Message("user", "last")))
    with serving(FakeServer([answer], [VLLM])) as server:
        async with backend_of(server) as backend:
            assert (await ask(backend, long)).text == "Hello"
            sent = server.bodies[-1]["messages"]
            assert sent[0]["content"].startswith("a long persona")
            short = dataclasses.replace(
                ASKED, messages=(Message("user", "a"), Message("assistant", "b"), *ASKED.messages)
            )
            assert (await ask(backend, short)).text == "Hello"
            assert [message["content"] for message in server.bodies[-1]["messages"]] == ["a", "b", "Hi"]


async def test_another_server_answers_while_one_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_stream, "BUSY_PAUSE", 60.0)
    with serving(FakeServer(models=[VLLM])) as first, serving(FakeServer(models=[VLLM])) as second:
        async with backend_of(first, second) as backend:
            await ask(backend)
            used = first if first.bodies else second
            used.answers = [error(429, {"error": "slow down"})]
            assert (await ask(backend)).text == "Hello there"


async def test_a_server_whose_replies_fail_is_left_alone_though_its_list_works() -> None:
    with serving(FakeServer(models=[VLLM])) as first, serving(FakeServer(models=[VLLM])) as second:
        async with backend_of(first, second) as backend:
            await ask(backend)
            used = first if first.bodies else second
            used.answers = [error(500, {"error": "boom"})]
            for _ in range(5):
                assert (await ask(backend)).text == "Hello there"
                await asyncio.sleep(0.05)  # its list is asked at once
            assert len(used.bodies) == 1 + 2
