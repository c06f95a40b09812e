"""A reply from one server, and what its failures are for the requests of others."""

from collections.abc import Callable

import httpx
import pytest

from chatui.chat import ChatRequest, Message
from chatui.errors import ChatError
from chatui.generation_settings import GenerationSettings
from chatui.remote.backend_spec import BackendSpec, ReplicaSpec
from chatui.remote.dialects import DIALECTS
from chatui.remote.replica import Replica
from chatui.remote.reply_stream import ReplyStream
from chatui.remote.request_body import Adjustments
from chatui.remote.vocabulary import Vocabulary

ASKED = ChatRequest((Message("user", "Hi"),), GenerationSettings(seed=1, max_new_tokens=8))
OK = 'data: {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


class Server:
    """Answers one request after another: with an error of a status, with "Hello" for 200, or by raising."""

    def __init__(self, *answers: int | httpx.TransportError, headers: dict[str, str] | None = None) -> None:
        self.answers, self.requests = list(answers), list[httpx.Request]()
        spec = ReplicaSpec("http://engine", headers or {})
        self.replica = Replica(BackendSpec((spec,), "engine", "vllm"), spec)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if not isinstance(answer, int):
            raise answer
        if answer == 200:
            return httpx.Response(200, text=OK, headers={"Content-Type": "text/event-stream"})
        return httpx.Response(answer, json={"error": {"message": "boom"}})

    async def ask(self) -> str:
        """The text of a reply. Raises ChatError."""
        async with httpx.AsyncClient(transport=httpx.MockTransport(self.answer)) as client:
            stream = ReplyStream(
                client=client,
                request=ASKED,
                model="m",
                title="engine",
                dialect=DIALECTS["openai"],
                vocabulary=Vocabulary(),
                choose=lambda: [self.replica],
                adjustments=Adjustments(),
                learned=lambda _: None,
                read_prompt=_no_prompt,
            )
            text = ""
            async for delta in stream.deltas():
                text, _ = delta.apply_to(text, "")
            return text


async def _no_prompt(*_: object) -> None:
    return None


def _broken() -> httpx.TransportError:
    return httpx.RemoteProtocolError("server disconnected without a response")


@pytest.mark.parametrize("failure", [lambda: 500, lambda: 502, _broken])
async def test_what_fails_is_sent_once_more_and_counts_once(
    failure: Callable[[], int | httpx.TransportError],
) -> None:
    server = Server(failure(), failure(), 200)
    with pytest.raises(ChatError):
        await server.ask()
    assert len(server.requests) == 2
    assert (server.replica.breaker.failures, server.replica.breaker.is_closed) == (1, True)
    assert await server.ask() == "Hello"
    assert server.replica.breaker.failures == 0


async def test_failures_of_two_requests_keep_further_ones_away() -> None:
    server = Server(500, 500, 502)
    for _ in range(3):
        with pytest.raises(ChatError):
            await server.ask()
    assert len(server.requests) == 3, "the second one opens the circuit"


async def test_an_operators_header_takes_the_place_of_ours_however_it_is_written() -> None:
    server = Server(200, headers={"x-session-id": "theirs", "X-Key": "k"})
    assert await server.ask() == "Hello"
    assert server.requests[0].headers.get_list("X-Session-Id") == ["theirs"]
    assert server.requests[0].headers["x-key"] == "k"
