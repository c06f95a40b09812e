"""The metrics that Prometheus reads at /metrics. Names after `chatui:` are vLLM's where the meaning is the same.

https://docs.vllm.ai/en/stable/usage/metrics/
"""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from chatui.chat import Finish, ReplyDelta

LABELS = ("model_name",)
FIRST_TOKEN_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
"""Seconds."""
TOKEN_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5, 10)
"""Seconds."""
REQUEST_BUCKETS = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
"""Seconds."""
WRITE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds."""
STEP_BUCKETS = (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Seconds."""
REASONS = {"stop_token": "stop", "stop_string": "stop", "length": "length", "cancelled": "abort"}
"""vLLM's names of finish reasons. "error" is one too, of replies that failed."""


class MeteredBackend(Protocol):
    """What a backend of one model tells of itself."""

    on_step: Callable[[float], None] | None
    """Called with the seconds of each step of the model, in its thread."""

    def kv_usage(self) -> float:
        """The share of its K/V cache that running replies fill, from 0 to 1. Thread-safe."""


class MeteredDatabase(Protocol):
    """What the database tells of itself."""

    on_write: Callable[[float], None]
    """Called with the seconds of each write transaction, from the wait for its turn to its end, in any thread."""

    on_error: Callable[[], None]
    """Called at each failure of the database, in any thread."""


class Metrics:
    """The metrics of one server, in a registry of their own. Those of replies are labelled by model. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        self.running = self._gauge("num_requests_running", "Requests whose replies are being generated.")
        self.waiting = self._gauge("num_requests_waiting", "Requests in the queue, or for a model that is loading.")
        self.kv_usage = self._gauge("kv_cache_usage_perc", "Share of the K/V cache that running replies fill, 0 to 1.")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = self._counter("generation_tokens", "Generated tokens.")
        self.prefix_queries = self._counter("prefix_cache_queries", "Tokens of prompts looked up in the K/V cache.")
        self.prefix_hits = self._counter("prefix_cache_hits", "Tokens of prompts found in the K/V cache.")
        self.disk_hits = self._counter("external_prefix_cache_hits", "Tokens of prompts found in K/V on disk.")
        self.accepted = self._counter(
            "spec_decode_num_accepted_tokens", "Generated tokens that came without a decode step, by prompt lookup."
        )
        self.success = self._counter("request_success", "Replies by the reason of their end.", "finished_reason")
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From the request to its first token.", FIRST_TOKEN_BUCKETS
        )
        self.per_token = self._histogram(
            "request_time_per_output_token_seconds", "Mean time per token of each reply after its first.", TOKEN_BUCKETS
        )
        self.latency = self._histogram(
            "e2e_request_latency_seconds", "From the request to the end of its reply.", REQUEST_BUCKETS
        )
        self.queue = self._histogram("request_queue_time_seconds", "Time in the queue.", REQUEST_BUCKETS)
        self.prefill = self._histogram("request_prefill_time_seconds", "Time to read the prompt.", REQUEST_BUCKETS)
        self.decode = self._histogram("request_decode_time_seconds", "Time to write the reply.", REQUEST_BUCKETS)
        self.step = self._histogram(
            "engine_step_seconds", "Time of each step of the model, for all its replies.", STEP_BUCKETS
        )
        self.requests = self._server_counter("http_requests", "Requests by kind of route and status.", "route", "code")
        self.running_replies = self._server_gauge("page_replies_running", "Replies of the page that are being written.")
        self.connected_tabs = self._server_gauge("page_tabs", "Tabs in which the page is open.")
        self.store_errors = self._server_counter("store_errors", "Failures of the database.")
        self.store_write = Histogram(
            "chatui:store_write_seconds",
            "Time of each write transaction of the database, with the wait for its turn.",
            buckets=WRITE_BUCKETS,
            registry=self.registry,
        )

    def watch_server(self, running: Callable[[], int], database: MeteredDatabase) -> None:
        """Measure the page, of which `running` counts the replies, and the database of all chats."""
        self.running_replies.set_function(running)
        database.on_write, database.on_error = self.store_write.observe, self.store_errors.inc

    def watch(self, model: str, backend: MeteredBackend) -> None:
        """Measure a newly loaded model, in place of an earlier one of this name."""
        backend.on_step = self.step.labels(model).observe
        self.kv_usage.labels(model).set_function(backend.kv_usage)

    def reply(self, model: str) -> "ReplyMetrics":
        """Count a request, from its arrival to the end of its reply, in a `with` block."""
        return ReplyMetrics(self, model)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """(the metrics as text, its content type), in the format that an Accept header asks for."""
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind

    def _gauge(self, name: str, documentation: str) -> Gauge:
        return Gauge(f"chatui:{name}", documentation, LABELS, registry=self.registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"chatui:{name}", documentation, (*LABELS, *labels), registry=self.registry)

    def _server_gauge(self, name: str, documentation: str) -> Gauge:
        return Gauge(f"chatui:{name}", documentation, registry=self.registry)

    def _server_counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"chatui:{name}", documentation, labels, registry=self.registry)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"chatui:{name}", documentation, LABELS, buckets=buckets, registry=self.registry)


class ReplyMetrics:
    """Counts one request. It is waiting until the delta with its prompt, then running."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model
        self._generation_tokens = metrics.generation_tokens.labels(model)
        self._state = metrics.waiting.labels(model)
        self._started = time.perf_counter()
        self._running = self._writing = False
        self._finish: Finish | None = None
        self._prompt_tokens = 0

    def __enter__(self) -> Self:
        self._state.inc()
        return self

    def add(self, delta: ReplyDelta) -> None:
        """Count what a delta brings."""
        if delta.prompt is not None and not self._running:
            self._begin()
            self._count_prompt(len(delta.prompt.token_ids), delta.prefilled_tokens or 0)
        if delta.restored_tokens:
            self._metrics.disk_hits.labels(self._model).inc(delta.restored_tokens)
        if delta.tokens:
            self._generation_tokens.inc(delta.tokens)
            if not self._writing:
                self._writing = True
                self._metrics.first_token.labels(self._model).observe(time.perf_counter() - self._started)
        self._finish = delta.finish or self._finish

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        metrics, model = self._metrics, self._model
        self._state.dec()
        if self._finish is None:
            aborted = error is None or isinstance(error, GeneratorExit | asyncio.CancelledError)
            metrics.success.labels(model, "abort" if aborted else "error").inc()
            return
        finish = self._finish
        metrics.success.labels(model, REASONS[finish.reason]).inc()
        metrics.latency.labels(model).observe(time.perf_counter() - self._started)
        metrics.queue.labels(model).observe(finish.queue_seconds)
        metrics.prefill.labels(model).observe(finish.prefill_seconds)
        metrics.decode.labels(model).observe(finish.decode_seconds)
        metrics.accepted.labels(model).inc(len(finish.accepted_positions))
        if not self._prompt_tokens:  # a server tells them at the end
            self._count_prompt(finish.prompt_tokens, finish.told_cached_tokens)
        if finish.completion_tokens > 1:
            metrics.per_token.labels(model).observe(finish.decode_seconds / (finish.completion_tokens - 1))

    def _begin(self) -> None:
        self._running = True
        self._state.dec()
        self._state = self._metrics.running.labels(self._model)
        self._state.inc()

    def _count_prompt(self, prompt_tokens: int, cached_tokens: int | None) -> None:
        metrics, model = self._metrics, self._model
        self._prompt_tokens = prompt_tokens
        metrics.prompt_tokens.labels(model).inc(prompt_tokens)
        if cached_tokens is not None:  # a prompt of which it is not told would lower the share
            metrics.prefix_queries.labels(model).inc(prompt_tokens)
            metrics.prefix_hits.labels(model).inc(cached_tokens)
