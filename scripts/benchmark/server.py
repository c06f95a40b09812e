"""A server that speaks OpenAI's dialect over HTTP."""

import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from scripts.benchmark.sse import EventReader
from scripts.benchmark.target import BenchError, Conversation, Reply

LOCAL = ("127.0.0.1", "localhost", "::1")
# A request may wait in a queue for minutes without a word.
TIMEOUT = httpx.Timeout(900.0, connect=10.0)
MAX_ERROR_LENGTH = 300

OnEvent = Callable[[], None]
Settle = Callable[[], Awaitable[None]]
Fields = dict[str, Any]


@dataclass(frozen=True)
class Address:
    """Where a server is and what to ask it for; `url` ends in /v1, `model` None is its first one."""

    url: str
    name: str
    model: str | None = None
    api_key: str | None = None
    weight_bytes: int | None = None


class HttpServer:
    """Answers through /v1/chat/completions. `connected` makes one."""

    serial = False

    def __init__(
        self, client: httpx.AsyncClient, name: str, model: str, weight_bytes: int | None, settle: Settle | None = None
    ) -> None:
        self.name = name
        self.weight_bytes = weight_bytes
        self._client = client
        self._model = model
        self._settle = settle
        self._extras: Fields = {"ignore_eos": True}
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        """Where it is, /v1 and all."""
        return str(self._client.base_url).rstrip("/")

    async def ask(self, messages: Conversation, tokens: int, heard: OnEvent | None = None) -> Reply:
        """A greedy reply of `tokens` tokens, or fewer where the server refuses `ignore_eos`."""
        body = {
            "model": self._model,
            "messages": list(messages),
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "user": f"user-{next(self._numbers)}",
        }
        extras = self._extras
        try:
            sent = time.monotonic()
            async with self._client.stream("POST", "chat/completions", json={**body, **extras}) as response:
                if response.status_code == 200:
                    return await self._read(response, sent, heard)
                refusal = error_message(await response.aread())
        except httpx.HTTPError as error:
            raise BenchError(f"{self.name} broke off ({describe(error)})") from error
        if response.status_code == 400 and extras:
            self._extras = {}
            return await self.ask(messages, tokens, heard)
        raise BenchError(f"{self.name} answered {response.status_code}: {refusal}")

    async def settle(self) -> None:
        """Wait until it is quiet. What a server elsewhere does in the background cannot be seen."""
        if self._settle:
            await self._settle()

    async def _read(self, response: httpx.Response, sent: float, heard: OnEvent | None) -> Reply:
        reader, pieces, usage, timings = EventReader(), list[tuple[float, str]](), Fields(), Fields()
        last = sent
        async for received in response.aiter_raw():
            now = time.monotonic()
            for data in reader.feed(received):
                if data == b"[DONE]":
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise BenchError(f"{self.name} failed: {error_message(data)}")
                usage, timings = event.get("usage") or usage, event.get("timings") or timings
                text = "".join(delta_text(choice["delta"]) for choice in event.get("choices", ()))
                if event.get("choices"):
                    last = now
                if text:
                    pieces.append((now, text))
                    if heard:
                        heard()
        if not usage:
            raise BenchError(f"{self.name} sends no usage, so its tokens cannot be counted")
        return Reply(
            sent,
            tuple(moment for moment, _ in pieces),
            last,
            "".join(text for _, text in pieces),
            usage["prompt_tokens"],
            usage["completion_tokens"],
            cached_tokens(usage, timings),
        )


@asynccontextmanager
async def connected(address: Address, settle: Settle | None = None) -> AsyncIterator[HttpServer]:
    """The server at an address. Raises BenchError where it cannot be reached or serves no model."""
    headers = {"Authorization": f"Bearer {address.api_key}"} if address.api_key else {}
    # A kept connection may be closed by the server just when it is used again.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    base = address.url.rstrip("/") + "/"
    try:
        elsewhere = httpx.URL(base).host not in LOCAL
        client = httpx.AsyncClient(base_url=base, headers=headers, timeout=TIMEOUT, limits=limits, trust_env=elsewhere)
    except (httpx.InvalidURL, UnicodeEncodeError) as error:
        raise BenchError(f"{address.url} is no address ({describe(error)})") from error
    async with client:
        models = await _models(client, address)
        model = address.model or next(iter(models), None)
        if model is None:
            raise BenchError(f"{address.name} at {address.url} serves no model")
        weight_bytes = models.get(model, {}).get("weight_bytes")
        yield HttpServer(client, address.name, model, address.weight_bytes or weight_bytes, settle)


async def _models(client: httpx.AsyncClient, address: Address) -> dict[str, Fields]:
    """What the server says of its models, by their names."""
    name, url = address.name, address.url
    try:
        response = await client.get("models")
    except httpx.HTTPError as error:
        raise BenchError(f"{name} at {url} cannot be reached ({describe(error)})") from error
    if response.status_code != 200:
        raise BenchError(f"{name} answered {response.status_code} at {url}/models: {error_message(response.content)}")
    try:
        return {entry["id"]: entry for entry in response.json()["data"]}
    except (ValueError, KeyError, TypeError):
        raise BenchError(f"{name}: {url}/models is no list of models; an address ends in /v1") from None


def delta_text(delta: Fields) -> str:
    """What a delta adds to the reply, thoughts included: vLLM calls them `reasoning`, others `reasoning_content`."""
    return "".join(delta.get(part) or "" for part in ("reasoning_content", "reasoning", "content"))


def cached_tokens(usage: Fields, timings: Fields) -> int | None:
    """Tokens of the prompt that were not read again; older llama.cpp tells them in `timings` only."""
    cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", timings.get("cache_n"))
    return None if cached_tokens is None else int(cached_tokens)


def error_message(body: bytes) -> str:
    """The message of an error's body in one line."""
    text = body.decode(errors="replace")
    try:
        error = json.loads(text)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(text.split())[:MAX_ERROR_LENGTH]


def describe(error: Exception) -> str:
    """An error in one line, with its kind where it has no words."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
