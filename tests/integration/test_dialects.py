"""Every kind of server is known for what it is, and is asked for and told what it really takes and sends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from chatui.chat import ChatRequest, Finish, FinishReason, Message
from chatui.errors import ChatError, GenerationError, PromptError, TooLongError
from chatui.generation_settings import GenerationSettings
from chatui.remote.backend import RemoteBackend
from chatui.remote.backend_spec import BackendSpec, ReplicaSpec
from tests import dialect_servers as written
from tests.dialect_servers import END, Kind
from tests.remote_servers import FakeServer, serving

EVERYTHING = GenerationSettings(
    seed=1,
    max_new_tokens=50,
    temperature=0.7,
    top_k=5,
    top_p=1.0,
    min_p=0.1,
    repetition_penalty=1.1,
    no_repeat_ngram_size=3,
    thinking="off",
    stop=(*(f"never {n}" for n in range(6)), END),
)
ASKED = ChatRequest((Message("system", "S"), Message("user", "Hi")), EVERYTHING)
BEGUN = ChatRequest((Message("user", "Hi"), Message("assistant", "Hel")), EVERYTHING)
LONG = ChatRequest((Message("user", "x" * 500),), EVERYTHING, no_truncation=True)


@dataclass
class Row:
    """What the client should make of a kind: `software` and its models' names, and how its reply ended."""

    kind: Kind
    software: str
    names: tuple[str, ...] = ("team/org/m",)
    context: int = 4096
    cached: int | None = None
    reason: FinishReason = "stop_string"
    continues: bool = False
    too_long: type[ChatError] | None = TooLongError
    takes: str = ""


ROWS = {
    "vllm": Row(
        written.VLLM,
        "vLLM 0.32.0",
        cached=5,
        continues=True,
        takes="top_k min_p repetition_penalty chat_template_kwargs",
    ),
    "sglang": Row(
        written.SGLANG, "SGLang", continues=True, takes="top_k min_p repetition_penalty chat_template_kwargs"
    ),
    "llama.cpp": Row(
        written.LLAMA_CPP,
        "llama.cpp b9000",
        ("team/m",),
        cached=5,
        reason="stop_token",
        continues=True,
        takes="top_k min_p repeat_penalty chat_template_kwargs",
    ),
    "ollama": Row(
        written.OLLAMA,
        "Ollama 0.40.12",
        ("team/m:latest",),
        reason="stop_token",
        too_long=None,
        takes="reasoning_effort",
    ),
    "lm-studio": Row(
        written.LM_STUDIO, "LM Studio", reason="stop_string", too_long=GenerationError, takes="top_k repeat_penalty"
    ),
    "tgi": Row(written.TGI, "TGI 3.3.6"),
    "hf-router": Row(written.ROUTER, "Inference Providers"),
    "transformers": Row(
        written.TRANSFORMERS,
        "transformers serve",
        ("team/org/m", "team/gpt2"),
        context=0,
        reason="stop_string",
        too_long=None,
        takes="chat_template_kwargs",
    ),
    "openai": Row(written.OPENAI, "OpenAI API", ("team/m",), context=0),
}


@asynccontextmanager
async def backend_of(server: FakeServer) -> AsyncIterator[RemoteBackend]:
    backend = RemoteBackend(BackendSpec((ReplicaSpec(server.url),), "team")).start()
    try:
        await asyncio.to_thread(backend.wait)
        yield backend
    finally:
        await backend.close()


@pytest.mark.parametrize("dialect", ROWS)
async def test_a_dialect(dialect: str) -> None:
    row = ROWS[dialect]
    with serving(row.kind.server()) as server:
        async with backend_of(server) as backend:
            check_what_is_told(backend, dialect, row)
            await check_a_reply(backend, server, row)
            await check_continuing(backend, server, row)
            if row.too_long is None:
                assert (await whole(backend, LONG))[1] == "Hello there"
            else:
                with pytest.raises(row.too_long):
                    await whole(backend, LONG)


def check_what_is_told(backend: RemoteBackend, dialect: str, row: Row) -> None:
    report = backend._replicas[0].report
    assert report is not None
    assert (report.dialect, report.software) == (dialect, row.software)
    assert tuple(status.name for status in backend.models()) == row.names
    info = backend.models()[0].info
    assert info is not None
    assert info.server is not None
    assert (info.context_length, info.server.continues) == (row.context, row.continues)
    refused = {"top_k", "min_p", "repetition_penalty"} & set(info.server.unsupported)
    taken = row.takes.replace("repeat", "repetition").split()
    assert refused == {"top_k", "min_p", "repetition_penalty"} - set(taken)


async def check_a_reply(backend: RemoteBackend, server: FakeServer, row: Row) -> None:
    thought, text, finish = await whole(backend, ASKED)
    assert (thought, text) == ("hm", "Hello there")
    (body,) = server.bodies  # no field was refused
    assert set(row.takes.split()) <= set(body)
    own = {"top_k", "min_p", "repetition_penalty", "repeat_penalty", "chat_template_kwargs", "reasoning_effort"}
    assert not own & (set(body) - set(row.takes.split()))
    # Where it is our stop string that ends the reply, the connection is closed before the usage comes.
    usage = (9, row.cached) if END in body["stop"] else (None, None)
    assert (finish.told_prompt_tokens, finish.told_cached_tokens, finish.reason) == (*usage, row.reason)


async def check_continuing(backend: RemoteBackend, server: FakeServer, row: Row) -> None:
    if not row.continues:
        with pytest.raises(PromptError, match="cannot go on"):
            await whole(backend, BEGUN)
        return
    await whole(backend, BEGUN)
    assert server.bodies[-1]["messages"][-1]["content"] == "Hel"
    assert len(server.bodies) == 2


async def whole(backend: RemoteBackend, request: ChatRequest) -> tuple[str, str, Finish]:
    """(thought, text, finish) of a reply. Raises ChatError."""
    text = thought = ""
    finish = None
    async for delta in backend.stream(request):
        text, thought = delta.apply_to(text, thought)
        finish = delta.finish or finish
    assert finish is not None
    return thought, text, finish
