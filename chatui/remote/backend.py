"""The backend of one or several equal servers: implements Backend over OpenAI's API."""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import httpx

from chatui.backend import PreviewMemo
from chatui.chat import (
    ChatRequest,
    LoadOptions,
    Message,
    ModelInfo,
    ModelStatus,
    Prompt,
    ReplyDelta,
    TokenizeRequest,
    Tokens,
)
from chatui.errors import ModelError
from chatui.generation_settings import GenerationSettings
from chatui.metrics import Metrics
from chatui.remote import prompt_reader, replica_choice
from chatui.remote.activity import combined, read_activity
from chatui.remote.admission import Admission
from chatui.remote.backend_spec import BackendSpec
from chatui.remote.dialects import DIALECTS, Dialect
from chatui.remote.http_transport import HttpTransport
from chatui.remote.model_listing import ModelListing
from chatui.remote.replica import Replica, tls_context, uses_proxies, wait_until_settled
from chatui.remote.reply_stream import ReplyStream
from chatui.remote.request_body import Adjustments, build_body, sent_messages
from chatui.remote.vocabulary import Vocabulary
from chatui.server_facts import ServerActivity
from chatui.settings import AppSettings

T = TypeVar("T")

FIRST_ANSWER_SECONDS = 10.0
"""How long a request waits for a server that has never answered."""
SETTLED_SECONDS = 0.05
"""Time between two looks at whether one has answered."""
PROMPT_SECONDS = 5.0
"""How long the tokens of a prompt are waited for."""
ACTIVITY_SECONDS = 1.0
"""How long the servers' figures are waited for, and how long they are good for."""
TIMEOUT = httpx.Timeout(connect=5.0, read=None, write=30.0, pool=None)
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64)


class RemoteBackend:
    """Models of servers that are replicas of each other. They are asked by threads of their own from `start()` on."""

    def __init__(
        self,
        spec: BackendSpec,
        defaults: GenerationSettings | None = None,
        max_waiting: int = AppSettings.model_fields["queue"].default,
        metrics: Metrics | None = None,
    ) -> None:
        """`defaults` are the operator's settings of replies. At most `max_waiting` requests wait."""
        self.spec = spec
        self._defaults = defaults or GenerationSettings()
        self._metrics = metrics or Metrics()
        self._admission = Admission(spec.max_requests, max_waiting)
        self._updating = threading.Lock()
        self._replicas = [Replica(spec, replica, self._update) for replica in spec.replicas]
        self._adjustments: dict[str, Adjustments] = {}
        self._vocabularies: dict[str, Vocabulary] = {}
        self._activities: dict[str, tuple[float, ServerActivity | None]] = {}
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
        self._listing = ModelListing(spec, self._defaults)
        self._listing.update(self._replicas, self._adjustments)

    def start(self) -> "RemoteBackend":
        """Begin to ask the servers."""
        for replica in self._replicas:
            replica.start()
        return self

    def wait(self) -> ModelInfo:
        """Wait until the servers have answered or failed. Raises ModelError if none has."""
        wait_until_settled(self._replicas, FIRST_ANSWER_SECONDS)
        status = self.models()[0]
        if status.info is None:
            raise status.error or ModelError(f"{self.spec.title} does not answer.")
        return status.info

    def models(self) -> list[ModelStatus]:
        """The models of all servers; one that stands for them until a server has told them."""
        return list(self._listing.statuses)

    def load(self, model: str, options: LoadOptions | None = None) -> None:  # noqa: ARG002
        """Ask the servers again, where they have failed."""
        for replica in self._replicas:
            if replica.problem:
                replica.check()

    async def ensure_loaded(self, model: str) -> None:
        """Wait until the servers have answered. Raises ModelError."""
        await self._settled()
        self._find(model)

    def unload(self, model: str) -> None:
        """Refused. Raises ModelError."""
        raise self._elsewhere(model)

    def add(self, source: str, revision: str | None = None) -> str:  # noqa: ARG002
        """Refused. Raises ModelError."""
        raise self._elsewhere(source)

    def remove(self, model: str) -> None:
        """Refused. Raises ModelError."""
        raise self._elsewhere(model)

    def refresh(self) -> None:
        """Nothing: the servers are asked all the time."""

    def admit(self, user: str, model: str = "") -> str:  # noqa: ARG002
        """Reserve a place in the queue for a request of this user. Raises OverloadError."""
        return self._admission.reserve(user)

    def release_ticket(self, ticket: str) -> None:
        """Give up a reserved place. Does nothing if its request has already arrived."""
        self._admission.release(ticket)

    def answer_now(self, ticket: str) -> None:
        """Nothing: no server can end a thought."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        """Generate the reply. Closing the iterator closes the connection, which frees the server's row."""
        waiter = self._admission.enter(request.user, request.ticket)
        try:
            with self._metrics.reply(self._name(request.model)) as measured:
                async for position in self._admission.positions(waiter):
                    yield ReplyDelta(queue_position=position)
                queued = time.perf_counter() - waiter.asked_at
                reply = await self._reply(request, queued)
                async with contextlib.aclosing(reply.deltas()) as deltas:
                    async for delta in deltas:
                        measured.add(delta)
                        yield delta
        finally:
            self._admission.leave(waiter)

    async def preview(self, request: ChatRequest, memo: PreviewMemo | None = None) -> Prompt | None:  # noqa: ARG002
        """The prompt, where a server tells it in time."""
        id = self._listing.ids.get(self._name(request.model), "")
        for replica in self._candidates(id, request)[:1]:
            dialect = self._dialect(replica)
            if dialect.prompt:
                known = self._adjustments.get(id, Adjustments())
                body = build_body(request, id, dialect, known)
                messages = sent_messages(request, dialect, known)
                with contextlib.suppress(httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError):
                    return await self._read_prompt(replica, body, messages)
        return None

    def decode_tokens(self, ids: set[int], model: str = "") -> dict[int, str]:
        """The texts of tokens that have come with replies of the model. Thread-safe."""
        vocabulary = self._vocabularies.get(self._listing.ids.get(self._name(model), ""))
        return vocabulary.texts(ids) if vocabulary else {}

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """The tokens of a text or a prompt, where a server tells them. Raises ChatError."""
        id = self._find(request.model)
        replica, dialect = self._telling_replica(id)
        if request.messages:
            asked = ChatRequest(request.messages, request.settings)
            messages = sent_messages(asked, dialect, Adjustments())
            body = build_body(asked, id, dialect, Adjustments())
            if not request.add_generation_prompt:
                body["add_generation_prompt"] = False
            prompt = await self._asked(partial(self._read_prompt, replica, body, messages))
            return Tokens(prompt.token_ids if prompt else (), prompt.token_texts if prompt else ())
        ask = partial(prompt_reader.tokenize_text, (self._client(), replica.spec), dialect, id, request.text)
        told = await self._asked(partial(ask, request.add_special_tokens))
        token_ids, names = told or ((), ())
        return Tokens(tuple(token_ids), tuple(names))

    async def detokenize(self, ids: Sequence[int], model: str = "") -> str:
        """The text of these tokens, where a server tells it. Raises ChatError."""
        id = self._find(model)
        replica, dialect = self._telling_replica(id)
        server = self._client(), replica.spec
        text = await self._asked(partial(prompt_reader.detokenize, server, dialect, id, ids))
        return text or ""

    async def activity(self, model: str = "") -> ServerActivity | None:
        """What the servers of a model tell of themselves now, if they answer in time. Asked once a second at most."""
        id, now = self._listing.ids.get(self._name(model), ""), time.monotonic()
        asked_at, known = self._activities.get(id, (-math.inf, None))
        if now - asked_at < ACTIVITY_SECONDS:
            return known
        up = [replica for replica in self._replicas if replica.has(id) and replica.is_up]
        told = await asyncio.gather(*(self._read_activity(replica, id) for replica in up))
        known = combined([each for each in told if each is not None])
        self._activities[id] = time.monotonic(), known
        return known

    def forget(self, chat: str) -> None:
        """Nothing: the servers' caches are their own."""

    async def close(self) -> None:
        """Ask the servers no more, and close the connections of this event loop."""
        for replica in self._replicas:
            replica.close()
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    async def _reply(self, request: ChatRequest, queued: float) -> ReplyStream:
        """The reply to a request that has left the queue. Raises ModelError."""
        await self._settled()
        id = self._find(request.model)
        candidates = partial(self._candidates, id, request)
        first = next(iter(candidates()), self._replicas[0])
        return ReplyStream(
            self._client(),
            request,
            id,
            self.spec.title,
            self._dialect(first),
            self._vocabularies.setdefault(id, Vocabulary()),
            candidates,
            self._adjustments.get(id, Adjustments()),
            partial(self._learn, id),
            self._read_prompt,
            queued,
        )

    async def _settled(self) -> None:
        """Wait until a server has answered or failed, or for FIRST_ANSWER_SECONDS. Holds no thread meanwhile."""
        deadline = time.monotonic() + FIRST_ANSWER_SECONDS
        while not any(replica.settled.is_set() for replica in self._replicas) and time.monotonic() < deadline:
            await asyncio.sleep(SETTLED_SECONDS)

    def _candidates(self, id: str, request: ChatRequest) -> list[Replica]:
        """The servers that may be asked for a model, best first: those that answer, then those that may do so again."""
        having = [replica for replica in self._replicas if replica.has(id)]
        up = [replica for replica in having if replica.is_up]
        key = replica_choice.prefix_key(request)
        return [*replica_choice.in_order(up, key), *(replica for replica in having if replica not in up)]

    def _find(self, model: str) -> str:
        """The servers' name of a model. Raises ModelError."""
        id = self._listing.ids.get(self._name(model))
        if id is None:
            status = self.models()[0]
            raise status.error or ModelError(
                f"{self.spec.title} does not serve {model or 'any model'}.", "Choose another model."
            )
        return id

    def _name(self, model: str) -> str:
        return model or self.models()[0].name

    def _dialect(self, replica: Replica) -> Dialect:
        return DIALECTS[replica.report.dialect if replica.report else self.spec.dialect or "openai"]

    def _learn(self, id: str, field: str) -> None:
        """Remember until the next start that the servers of a model refuse a field, or for "" need folded roles."""
        known = self._adjustments.get(id, Adjustments())
        self._adjustments[id] = known.without(field) if field else replace(known, folded_roles=True)
        self._update()

    def _update(self) -> None:
        with self._updating:  # the threads of all servers call it, and what was read last must be listed last
            self._listing.update(self._replicas, self._adjustments)

    def _client(self) -> httpx.AsyncClient:
        """The client of the running event loop. It follows no redirects."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            self._clients = {known: each for known, each in self._clients.items() if not known.is_closed()}
            client = httpx.AsyncClient(
                timeout=TIMEOUT,
                limits=LIMITS,
                http2=True,
                mounts={"http://": HttpTransport()},  # where there is no HTTP/2, and no proxy counts
                trust_env=any(uses_proxies(replica.url) for replica in self.spec.replicas),
                verify=tls_context(http2=True),
            )
            self._clients[loop] = client
        return client

    async def _read_prompt(self, replica: Replica, body: dict[str, Any], messages: Sequence[Message]) -> Prompt | None:
        async with asyncio.timeout(PROMPT_SECONDS):
            server = self._client(), replica.spec
            return await prompt_reader.read_prompt(server, self._dialect(replica), body, messages)

    async def _read_activity(self, replica: Replica, id: str) -> ServerActivity | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ACTIVITY_SECONDS):
                return await read_activity((self._client(), replica.spec), self._dialect(replica), id)
        return None

    def _telling_replica(self, id: str) -> tuple[Replica, Dialect]:
        """A server that tells the tokens of a model's texts. Raises ModelError."""
        for replica in self._candidates(id, ChatRequest((), self._defaults)):
            dialect = self._dialect(replica)
            if dialect.prompt:
                return replica, dialect
        raise ModelError(f"{self.spec.title} does not tell the tokens of texts.", "Choose another model.")

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What a server answers. Raises ModelError if it does not."""
        try:
            async with asyncio.timeout(PROMPT_SECONDS):
                return await ask()
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError):
            raise ModelError(f"{self.spec.title} has not answered.", "Try again.") from None

    def _elsewhere(self, model: str) -> ModelError:
        return ModelError(f"{model} runs on {self.spec.title}, which is not run from here.", "Ask its operator.")
