"""What Prometheus reads of requests and models, and who may read it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from chatui.api import routes
from chatui.chat import ChatRequest, Finish, Message, ModelInfo, Prompt, PromptCount, ReplyDelta
from chatui.errors import GenerationError
from chatui.generation_settings import GenerationSettings
from chatui.metrics import Metrics
from chatui.model_spec import ModelSpec
from chatui.models.instances import Memory
from chatui.models.registry import Registry
from chatui.settings import AppSettings
from tests.fakes import INFO, FakeBackend, Hold

KEY = "open-sesame"
PROMPT = Prompt("four", (1, 2, 3, 4))
FINISH = Finish("length", 4, 3, 7, queue_seconds=0.5, prefill_seconds=1.5, decode_seconds=0.4, cached_tokens=1)
REPLY = [ReplyDelta(prompt=PROMPT, prefilled_tokens=1), *(ReplyDelta("x", tokens=1) for _ in range(3))]


def values(metrics: Metrics, **labels: str) -> dict[str, float]:
    """Every value of a model, by its name without the prefix; those with other labels too left out."""
    text, _ = metrics.exposition()
    return {
        sample.name.removeprefix("chatui:"): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.labels == {"model_name": "m", **labels} and not sample.name.endswith("_created")
    }


def test_a_reply_is_counted_from_its_arrival_to_its_end() -> None:
    metrics = Metrics()
    with metrics.reply("m") as reply:
        reply.add(ReplyDelta(queue_position=2))
        assert values(metrics) == {"num_requests_waiting": 1, "generation_tokens_total": 0}
        reply.add(REPLY[0])
        assert values(metrics)["num_requests_waiting"] == 0
        assert values(metrics)["num_requests_running"] == 1
        reply.add(ReplyDelta(prefilled_tokens=3, restored_tokens=2))
        for delta in REPLY[1:]:
            reply.add(delta)
        assert values(metrics)["generation_tokens_total"] == 3
        reply.add(ReplyDelta(finish=replace(FINISH, accepted_positions=(1, 2))))
    found = values(metrics)
    assert found["num_requests_running"] == found["num_requests_waiting"] == 0
    assert found["prompt_tokens_total"] == found["prefix_cache_queries_total"] == 4
    assert found["prefix_cache_hits_total"] == 1
    assert found["external_prefix_cache_hits_total"] == 2
    assert found["time_to_first_token_seconds_count"] == found["e2e_request_latency_seconds_count"] == 1
    assert found["request_queue_time_seconds_sum"] == 0.5
    assert found["request_prefill_time_seconds_sum"] == 1.5
    assert found["request_decode_time_seconds_sum"] == 0.4
    assert found["request_time_per_output_token_seconds_sum"] == pytest.approx(0.2)
    assert values(metrics, finished_reason="length") == {"request_success_total": 1}
    assert found["spec_decode_num_accepted_tokens_total"] == 2
    assert values(metrics, le="0.2")["request_time_per_output_token_seconds_bucket"] == 1


@pytest.mark.parametrize(("untold", "looked_up"), [((), 9), (("cached_tokens",), 0)])
def test_a_prompt_of_which_no_cached_tokens_are_told_does_not_lower_their_share(
    untold: tuple[PromptCount, ...], looked_up: int
) -> None:
    metrics = Metrics()
    with metrics.reply("m") as reply:
        reply.add(ReplyDelta(prompt=Prompt("", ())))
        reply.add(ReplyDelta(finish=replace(FINISH, prompt_tokens=9, untold=untold)))
    found = values(metrics)
    assert found["prompt_tokens_total"] == 9
    assert found.get("prefix_cache_queries_total", 0) == looked_up


@pytest.mark.parametrize(
    ("error", "reason"),
    [(GeneratorExit(), "abort"), (asyncio.CancelledError(), "abort"), (GenerationError("Broken."), "error")],
)
@pytest.mark.parametrize("deltas", [REPLY[:0], REPLY[:1], REPLY])
def test_one_that_has_no_end_is_over_too(error: BaseException, reason: str, deltas: list[ReplyDelta]) -> None:
    metrics = Metrics()
    with suppress(type(error)), metrics.reply("m") as reply:
        for delta in deltas:
            reply.add(delta)
        raise error
    assert values(metrics, finished_reason=reason) == {"request_success_total": 1}
    found = values(metrics)
    assert found.get("num_requests_running", 0) == found["num_requests_waiting"] == 0
    assert found["generation_tokens_total"] == max(0, len(deltas) - 1)


class Loaded(FakeBackend):
    """A backend of one model, which is there from the start."""

    def start(self) -> None:
        pass

    def wait(self) -> ModelInfo:
        return INFO


async def test_a_registry_measures_its_models_by_the_names_that_they_are_served_by() -> None:
    hold = Hold()
    backends: list[Loaded] = []

    def opened(_: ModelSpec) -> Loaded:
        backends.append(Loaded([*"ab", hold, "c"], rate=1e6))
        return backends[-1]

    metrics = Metrics()
    memory = Memory(lambda spec: 0, lambda: 1, lambda: None)
    registry = Registry([ModelSpec("m")], opened, memory, metrics=metrics)
    request = ChatRequest((Message("user", "Hi"),), GenerationSettings())
    async with aclosing(registry.stream(request)) as deltas:
        assert await _text(deltas, 2) == "ab"
        assert values(metrics)["num_requests_running"] == 1
        assert values(metrics)["generation_tokens_total"] == 2
        hold.release()
        assert await _text(deltas, 1) == "c"
        assert [delta.finish is not None async for delta in deltas] == [True]
    [backend] = backends
    assert backend.on_step is not None
    backend.on_step(0.06)
    found = values(metrics)
    assert found["num_requests_running"] == 0
    assert found["kv_cache_usage_perc"] == 0.25
    assert found["engine_step_seconds_sum"] == 0.06
    assert values(metrics, finished_reason="stop") == {"request_success_total": 1}


async def _text(deltas: AsyncGenerator[ReplyDelta], count: int) -> str:
    """The text of the next pieces."""
    text = ""
    while len(text) < count:
        text += (await anext(deltas)).text
    return text


def client_of(metrics: Metrics, address: str = "127.0.0.1", **settings: object) -> TestClient:
    app = Starlette(routes=routes.mounts(FakeBackend(), AppSettings.model_validate(settings), metrics))
    return TestClient(app, "http://localhost:7860", client=(address, 5), raise_server_exceptions=False)


@pytest.mark.parametrize("path", ["/metrics", "/v1/metrics"])
def test_prometheus_reads_either_format(path: str) -> None:
    metrics = Metrics()
    with metrics.reply("m") as reply:
        reply.add(REPLY[0])
    answer = client_of(metrics).get(path)
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'chatui:prompt_tokens_total{model_name="m"} 4.0' in answer.text
    newer = client_of(metrics).get(path, headers={"Accept": "application/openmetrics-text"})
    assert newer.headers["content-type"].startswith("application/openmetrics-text")
    assert newer.text.endswith("# EOF\n")


def test_only_those_who_may_use_the_api_may_read_them() -> None:
    metrics = Metrics()
    assert client_of(metrics, address="10.0.0.5").get("/metrics").status_code == 403
    assert client_of(metrics, host="0.0.0.0").get("/metrics").status_code == 403
    assert client_of(metrics, auth="ada:long-enough-password").get("/metrics").status_code == 403
    locked = client_of(metrics, address="10.0.0.5", host="0.0.0.0", api_key=KEY)
    assert locked.get("/metrics").status_code == 401
    assert locked.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert client_of(metrics).post("/metrics").status_code == 405


def test_two_servers_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    with one.reply("m"):
        assert values(one)
        assert not values(other)
