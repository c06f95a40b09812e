"""llama.cpp and transformers serve, installed and started here, answer as the client thinks that they do."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from chatui.chat import Message
from chatui.engine.loading import embedded
from chatui.errors import PromptError, TooLongError
from tests import models
from tests.ports import reserved_port
from tests.real.other_servers import (
    ASKED,
    SETTINGS,
    backend_of,
    begun_and_stopped,
    installed,
    prompts_told,
    reply,
    running,
)

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

LLAMA_CPP = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.use_jinja = 2048, 2, 2, True
params.endpoint_metrics = True
server = xllamacpp.Server(params)
time.sleep(1e6)
"""


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = embedded.find()
    if model is None:
        pytest.skip(f"needs the default model: {embedded.INSTALL}")
    python = installed("xllamacpp") / "python"
    with reserved_port() as port:
        log = tmp_path_factory.mktemp("llama.cpp") / "log"
        with running([str(python), "-c", LLAMA_CPP, str(model), str(port)], port, log) as url:
            yield url


async def test_llama_cpp_chats_and_goes_on(llama_cpp: str) -> None:
    async with backend_of(llama_cpp) as backend:
        info = backend.models()[0].info
        assert info is not None
        assert info.server is not None
        assert info.server.software.startswith("llama.cpp")
        assert (info.context_length, info.parameters) == (1024, 134_515_008)
        text, deltas = await reply(backend, ASKED)
        assert "Paris" in text
        finish = deltas[-1].finish
        assert finish is not None
        assert finish.prompt_tokens > 20
        begun = replace(ASKED, messages=(*ASKED.messages, Message("assistant", "The capital of")))
        more, _ = await reply(backend, begun)
        assert "Paris" in more
        assert "capital of" not in more
        stops = (*(f"never {n}" for n in range(20)), "Par")
        cut, deltas = await reply(backend, replace(ASKED, settings=SETTINGS.model_copy(update={"stop": stops})))
        assert text.startswith(cut + "Par")
        wide = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "thinking": "off", "temperature": 0.7}
        _, deltas = await reply(backend, replace(ASKED, settings=SETTINGS.model_copy(update=wide)))
        assert not any(delta.prompt.notes for delta in deltas if delta.prompt)


async def test_llama_cpp_tells_its_prompt_and_probabilities(llama_cpp: str) -> None:
    async with backend_of(llama_cpp) as backend:
        told, in_reply = await prompts_told(backend)
        assert in_reply.token_ids == told.token_ids


async def test_llama_cpp_cuts_refuses_and_frees_the_row(llama_cpp: str) -> None:
    async with backend_of(llama_cpp) as backend:
        talk = [message for _ in range(8) for message in (Message("user", "word " * 200), Message("assistant", "ok"))]
        long = replace(ASKED, messages=(*talk, ASKED.messages[-1]))
        _, deltas = await reply(backend, long)
        assert max(delta.prompt.dropped for delta in deltas if delta.prompt) > 0
        with pytest.raises(TooLongError):
            await reply(backend, replace(long, no_truncation=True))
        await begun_and_stopped(backend)
        told = await backend.activity()
        assert told is not None
        assert (told.places, told.waiting, told.cache_tokens) == (2, 0, None)
        assert told.cache_hits is not None
        assert 0 < told.cache_hits < 1
        while any(slot["is_processing"] for slot in httpx.get(f"{llama_cpp}/slots", trust_env=False).json()):
            await asyncio.sleep(0.05)


async def test_transformers_serve(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / ("1" * 40)
    models.save(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("1" * 40)
    bin = installed("transformers[serving]==5.23.0", "torch==2.13.0")
    with reserved_port() as port:
        command = [str(bin / "transformers"), "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
        with running(command, port, tmp_path / "log", HF_HOME=str(tmp_path)) as url:
            async with backend_of(url) as backend:
                info = backend.models()[0].info
                assert info is not None
                assert info.server is not None
                assert (info.name, info.server.software) == ("real/org/tiny", "transformers serve")
                asked = {"thinking": "off", "top_k": 5, "stop": ("never",)}
                _, deltas = await reply(backend, replace(ASKED, settings=SETTINGS.model_copy(update=asked)))
                finish = deltas[-1].finish
                assert finish is not None
                assert (finish.reason, finish.completion_tokens) == ("length", 12)
                assert finish.prompt_tokens > 0
                assert not any(delta.prompt.notes for delta in deltas if delta.prompt)
                begun = replace(ASKED, messages=(*ASKED.messages, Message("assistant", "The")))
                with pytest.raises(PromptError, match="cannot go on"):
                    await reply(backend, begun)
                await begun_and_stopped(backend)
                _, deltas = await reply(backend, ASKED)
                assert deltas[-1].finish
