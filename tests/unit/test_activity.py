"""What servers tell of their load and their KV cache, read from what they really send."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from chatui.remote import activity
from chatui.remote.activity import combined, figures, read_activity
from chatui.remote.backend_spec import ReplicaSpec
from chatui.remote.dialects import DIALECTS
from chatui.remote.prompt_reader import Server
from chatui.server_facts import ServerActivity

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="smol"} 3.0
vllm:num_requests_running{engine="1",model_name="smol"} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="smol"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="smol",reason="capacity"} 2.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="smol"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="smol"} 0.25
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="smol"} 200.0
vllm:prefix_cache_queries_created{engine="0",model_name="smol"} 1.79e+09
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="smol"} 50.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="128",cache_dtype="auto",engine="0",num_gpu_blocks="364"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="smol"} 0.0
"""
LLAMA_CPP = """# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 30
llamacpp:prompt_tokens_cached_total 10
llamacpp:requests_processing 1
llamacpp:requests_deferred 4
"""
SLOTS = [{"id": 0, "n_ctx": 1024, "is_processing": False}, {"id": 1, "n_ctx": 1024, "is_processing": True}]
SGLANG = """sglang:num_running_reqs{model_name="a",tp_rank="0"} 3.0
sglang:num_running_reqs{model_name="a",tp_rank="1"} 3.0
sglang:num_queue_reqs{model_name="a",tp_rank="0"} 1.0
sglang:token_usage{model_name="a",tp_rank="0"} 0.28
"""
CHATUI = """chatui:num_requests_running{model_name="a"} 3.0
chatui:num_requests_running{model_name="b"} 1.0
chatui:kv_cache_usage_perc{model_name="a"} 0.5
"""


@asynccontextmanager
async def server_with(routes: dict[str, httpx.Response]) -> AsyncIterator[Server]:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer k"
        return routes.get(request.url.path, httpx.Response(501))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        yield client, ReplicaSpec("http://engine", {"Authorization": "Bearer k"})


async def told_by(dialect: str, model: str = "m", **routes: httpx.Response) -> ServerActivity | None:
    async with server_with({f"/{name}": response for name, response in routes.items()}) as server:
        return await read_activity(server, DIALECTS[dialect], model)


async def test_what_each_kind_tells() -> None:
    assert await told_by("vllm", metrics=httpx.Response(200, text=VLLM)) == ServerActivity(
        running=4, waiting=2, cache_tokens=128 * 364, cache_usage=0.375, cache_hits=0.25
    )
    metrics, slots = httpx.Response(200, text=LLAMA_CPP), httpx.Response(200, json=SLOTS)
    told = await told_by("llama.cpp", metrics=metrics, slots=slots)
    assert told == ServerActivity(running=1, waiting=4, places=2, cache_hits=0.25)
    slots = httpx.Response(200, json=SLOTS)
    assert await told_by("llama.cpp", slots=slots) == ServerActivity(running=1, places=2)
    sglang = httpx.Response(200, text=SGLANG)
    assert await told_by("sglang", metrics=sglang) == ServerActivity(running=3, waiting=1, cache_usage=0.28)


async def test_of_several_models_it_is_the_own_one() -> None:
    chatui = httpx.Response(200, text=CHATUI)
    assert await told_by("chatui", "a", metrics=chatui) == ServerActivity(running=3, cache_usage=0.5)
    chatui = httpx.Response(200, text=CHATUI)
    assert await told_by("chatui", "b", metrics=chatui) == ServerActivity(running=1)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, text="<html>no metrics</html>"),
        httpx.Response(200, text="vllm:num_requests_running{ 1"),
        httpx.Response(200, text='vllm:num_requests_running{engine="0"} NaN'),
        httpx.Response(200, text="vllm:num_requests_running 1" + "0" * 400),
        httpx.Response(200, text="vllm:num_requests_running 1e308\nvllm:num_requests_running 1e308"),
        httpx.Response(200, text="vllm:num_requests_running 1 1" + "0" * 400),
        httpx.Response(200, text='vllm:num_requests_running{a="b", ="c"} 1'),
        httpx.Response(200, text="vllm:kv_cache_usage_perc 1e308\nvllm:kv_cache_usage_perc 1e308"),
        httpx.Response(
            200, text=f"vllm:prefix_cache_hits_total {'9' * 308}\n" * 2 + "vllm:prefix_cache_queries_total 1"
        ),
        httpx.Response(200, text="vllm:num_requests_running 1e12"),
        httpx.Response(200, text='vllm:num_requests_running{a="' + "x" * 2000 + '"} 1'),
        httpx.Response(200, text="vllm:num_requests_running 1\n" * 10_000),
        httpx.Response(200, text='vllm:cache_config_info{block_size="1",num_gpu_blocks="' + "1" * 13 + '"} 1'),
        httpx.Response(200, content=b"\xff\xfe"),
        httpx.Response(401),
        httpx.Response(302, headers={"location": "http://elsewhere/metrics"}),
    ],
)
async def test_what_cannot_be_read_is_not_told(response: httpx.Response) -> None:
    assert await told_by("vllm", metrics=response) is None
    assert await told_by("openai", metrics=response) is None


async def test_more_than_is_read_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "MAX_BYTES", 100)
    assert await told_by("vllm", metrics=httpx.Response(200, text=VLLM)) is None


@pytest.mark.parametrize(("told", "share"), [("1.5", 1.0), ("-0.5", 0.0), ("1e308", 1.0), ("0.25", 0.25)])
async def test_shares_are_from_0_to_1(told: str, share: float) -> None:
    text = f"vllm:kv_cache_usage_perc {told}\nvllm:prefix_cache_hits_total {told}\nvllm:prefix_cache_queries_total 1\n"
    metrics = httpx.Response(200, text=text)
    assert await told_by("vllm", metrics=metrics) == ServerActivity(cache_usage=share, cache_hits=share)


async def test_the_event_loop_does_not_wait_for_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def parsed(text: str, *_: object) -> dict[str, float]:
        threads.append(threading.current_thread())
        return {}

    monkeypatch.setattr(activity, "figures", parsed)
    await told_by("vllm", metrics=httpx.Response(200, text=VLLM))
    assert threads
    assert threading.current_thread() not in threads


def test_a_line_ends_with_its_line_feed_alone() -> None:
    text = 'vllm:num_requests_running{name="a\u2028vllm:num_requests_running b"} 2\r\nvllm:num_requests_waiting 1\r\n'
    assert figures(text, DIALECTS["vllm"].metrics, "m") == {"running": 2.0, "waiting": 1.0}


def test_before_the_first_prompt_there_is_no_share() -> None:
    text = "vllm:prefix_cache_queries_total 0.0\nvllm:prefix_cache_hits_total 0.0\n"
    assert figures(text, DIALECTS["vllm"].metrics, "m") == {"looked_up": 0.0, "found": 0.0}
    assert activity._hits({"looked_up": 0.0, "found": 0.0}) is None


def test_several_servers_together() -> None:
    one, other = ServerActivity(1, 2, 4, 100, 0.5, 0.2), ServerActivity(3, None, 4, 100, 0.7, None)
    assert combined([]) is None
    assert combined([one]) == one
    assert combined([one, other]) == ServerActivity(4, None, 8, 200, 0.6, 0.2)
