"""One reply from whichever server of a backend gives it: tries, retries and waits until its first token, then reads."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from chatui import shallow_json, tracing
from chatui.chat import ChatRequest, Message, Prompt, ReplyDelta
from chatui.errors import ChatError, GenerationError, ModelError, OverloadError
from chatui.i18n import N_
from chatui.remote import probe, replica_choice
from chatui.remote.dialects import Dialect
from chatui.remote.event_stream import EventReader
from chatui.remote.replica import Replica
from chatui.remote.reply_reader import RemoteError, ReplyReader
from chatui.remote.request_body import Adjustments, build_body, droppable, sent_messages
from chatui.remote.response_body import beginning, no_piece, refusal, whole, within
from chatui.remote.server_errors import ServerError, read_error
from chatui.remote.vocabulary import Vocabulary
from chatui.wait_limit import WaitLimit

MAX_ADJUSTMENTS = 16
"""How often one request is sent in another form."""
MAX_BUSY_SECONDS = 180.0
"""How long a busy server is waited for."""
BUSY_PAUSE, LONGEST_BUSY_PAUSE = 1.0, 15.0
"""Seconds until a busy server is asked again that does not say when; each time doubles them."""
FIRST_EVENT_SECONDS, NEXT_EVENT_SECONDS = 600.0, 120.0
"""How long the first piece of a reply, and each one after it, may take: reading a long prompt takes minutes.

Comments and events that say nothing are no pieces.
"""
REFUSAL_SECONDS = 10.0
"""How long the body of an error may take."""
PROMPT_SECONDS = 3.0
"""How long the end of a reply waits for its prompt."""

WHOLE_BODIES = (b"{", b"[", b"<", b"")
"""How the body of a reply begins that is no stream of events."""

ReadPrompt = Callable[[Replica, dict[str, Any], Sequence[Message]], Awaitable[Prompt | None]]


@dataclass(eq=False)
class ReplyStream:
    """The deltas of the reply to a request. `model` is the server's name of the model, `title` that of the backend.

    `choose` gives the servers that may be asked now, best first. `adjustments` are those that the server is known to
    need; `learned` is called with a field that it was found to refuse, or with "" where it needs folded roles.
    `read_prompt` asks a server for the prompt.
    """

    client: httpx.AsyncClient
    request: ChatRequest
    model: str
    title: str
    dialect: Dialect
    vocabulary: Vocabulary
    choose: Callable[[], Sequence[Replica]]
    adjustments: Adjustments
    learned: Callable[[str], None]
    read_prompt: ReadPrompt
    queued: float = 0.0
    _notes: list[str] = field(default_factory=list)
    _failed: set[Replica] = field(default_factory=set)
    _busy: set[Replica] = field(default_factory=set)
    _failures: dict[Replica, int] = field(default_factory=dict)
    _repeated: bool = False

    async def deltas(self) -> AsyncGenerator[ReplyDelta]:
        """The reply. Raises ChatError."""
        started, pause, adjustments = time.perf_counter(), BUSY_PAUSE, 0
        while adjustments < MAX_ADJUSTMENTS:
            replica = self._next_replica()
            # Each server counts one failure of a request at most, though it is sent to it twice.
            failures = self._failures.setdefault(replica, replica.breaker.failures)
            try:
                async with contextlib.aclosing(self._attempt(replica)) as deltas:
                    async for delta in deltas:
                        yield delta
                return
            except RemoteError as failure:
                error = failure.error
                if self._adjust(error):
                    adjustments += 1
                    continue
                if error.is_busy:
                    self._busy.add(replica)
                    if self._remaining(self._failed | self._busy):
                        continue
                    self._busy.clear()
                    pause = await self._pause(error, pause, started)
                    yield ReplyDelta(queue_position=1)
                    continue
                if not error.is_outage or not self._may_try_again(replica, failure, failures):
                    raise error.as_chat_error(self.title) from None
            except httpx.HTTPError as failure:
                if not self._may_try_again(replica, failure, failures):
                    raise self._unreachable(probe.connection_problem(failure)) from None
        raise GenerationError(f"{self.title} refused the request in every form.", "Choose another model.")

    def _next_replica(self) -> Replica:
        """The server to ask. Raises ModelError if none is left."""
        for replica in sorted(self._remaining(self._failed), key=self._busy.__contains__):
            if replica.breaker.allow():
                return replica
        raise self._unreachable(N_("it cannot be reached"))

    def _unreachable(self, problem: str) -> ModelError:
        return ModelError(f"{self.title} gives no answer: {problem}.", "Try again in a while, or choose another model.")

    def _may_try_again(self, replica: Replica, failure: Exception, failures: int) -> bool:
        """Whether a server may be asked after this one, which had failed `failures` times before, has failed."""
        replica.breaker.record_failure(failures)
        replica.check()
        self._failed.add(replica)
        if isinstance(failure, httpx.HTTPError) and not isinstance(failure, httpx.TransportError):
            return False
        is_only = self._failed == {replica} and not self._remaining(self._failed)
        if is_only and not self._repeated and not isinstance(failure, httpx.ConnectError | httpx.TimeoutException):
            # A balancer may stand at the only address: it sends the second try to a server that lives. Ray Serve tells
            # of a replica that died with status 500.
            self._repeated = True
            self._failed.clear()
        return bool(self._remaining(self._failed))

    def _remaining(self, excluded: Collection[Replica]) -> list[Replica]:
        """The servers that may be asked, but for the excluded ones, best first."""
        return [replica for replica in self.choose() if replica not in excluded]

    async def _pause(self, error: ServerError, pause: float, started: float) -> float:
        """Wait until a busy server may be asked again. Returns the next pause. Raises OverloadError."""
        seconds = max(error.retry_after or 0.0, pause)
        if time.perf_counter() - started + seconds > MAX_BUSY_SECONDS:
            said = error.as_chat_error(self.title)
            raise OverloadError(said.message, said.remedy, retry_after=max(1, int(seconds)))
        await asyncio.sleep(seconds)
        return min(2 * pause, LONGEST_BUSY_PAUSE)

    def _adjust(self, error: ServerError) -> bool:
        """Whether the request is to be sent once more, in another form, after this error."""
        body = build_body(self.request, self.model, self.dialect, self.adjustments)
        known = self.adjustments
        if error.is_reply_too_long and "max_tokens" in body:
            self.adjustments = known.without("max_tokens")  # for this request only; the reader counts instead
        elif refused := error.refused_field(body):
            self.adjustments = known.without(refused)
            if error.is_about_a_name:
                self.learned(refused)
            self._notes.append(f"The server does not take {refused}: the reply was made without it.")
        elif error.is_about_roles and not known.folded_roles:
            self.adjustments = replace(known, folded_roles=True)
            self.learned("")
        elif error.is_too_long and not self.request.no_truncation:
            return self._drop_oldest(error)
        return self.adjustments != known

    def _drop_oldest(self, error: ServerError) -> bool:
        """Leave out the oldest messages. False if no more can be."""
        messages = [message for message in self.request.messages if message.role != "system" or message.content.strip()]
        most, known = droppable(messages), self.adjustments.dropped
        if known >= most:
            return False
        turns = messages[1:] if messages[0].role == "system" else messages
        sizes = [len(message.content) for message in turns]
        kept = sum(len(message.content) for message in messages) - sum(sizes[:known])
        share = 0.9 * error.limit / error.tokens if error.limit and error.tokens else 0.7
        drop, left = known, kept
        # A conversation begins with its user: some chat templates take no other.
        while drop < most and (left > share * kept or drop == known or turns[drop].role == "assistant"):
            left -= sizes[drop]
            drop += 1
        self.adjustments = replace(self.adjustments, dropped=drop)
        return True

    async def _attempt(self, replica: Replica) -> AsyncGenerator[ReplyDelta]:
        """The reply of one server. Raises RemoteError or httpx.HTTPError before its first token, ChatError after it."""
        body = build_body(self.request, self.model, self.dialect, self.adjustments)
        messages = sent_messages(self.request, self.dialect, self.adjustments)
        reader = ReplyReader(self.request, self.dialect, self.vocabulary, self.queued, "max_tokens" in body)
        sent = {name: value for name, value in body.items() if name != "messages"}
        prompt = Prompt("", (), self.adjustments.dropped, messages=tuple(messages), notes=tuple(self._notes), sent=sent)
        replica.outstanding += 1
        telling: asyncio.Task[Prompt] | None = None
        try:
            async with contextlib.aclosing(await self._respond(replica, body)) as response:
                if response.status_code != 200:
                    raise RemoteError(await refusal(response, REFUSAL_SECONDS))
                if self.request.trace:
                    telling = asyncio.create_task(self._told_prompt(replica, body, prompt))
                yield ReplyDelta(prompt=prompt)
                async with contextlib.aclosing(self._read(response, reader)) as deltas:
                    async for delta in deltas:
                        if telling is not None and telling.done():
                            prompt, telling = telling.result(), None
                            yield ReplyDelta(prompt=prompt)
                        yield delta
            replica.breaker.record_success()
            last = reader.flush()
            telling = telling or self._counting(replica, body, prompt, last)
            told = _with_ids(await _awaited(telling, prompt), reader.prompt_ids)
            if self.request.trace and told is not prompt:
                yield ReplyDelta(prompt=told)
            yield _counted(last, told)
        except (httpx.HTTPError, RemoteError) as error:
            if reader.has_begun:
                raise self._broken(error) from None
            raise
        finally:
            replica.outstanding -= 1
            if telling is not None:
                telling.cancel()

    async def _respond(self, replica: Replica, body: dict[str, Any]) -> httpx.Response:
        """The response, of which the headers have come. Raises httpx.HTTPError."""
        # A compressed stream would come in blocks, not in tokens.
        headers = httpx.Headers({"Accept-Encoding": "identity", **replica_choice.session_header(self.request)})
        headers.update({**replica.spec.headers, **tracing.headers()})
        url = f"{replica.spec.url}/v1/chat/completions"
        request = self.client.build_request("POST", url, json=body, headers=headers)
        return await within(FIRST_EVENT_SECONDS, self.client.send(request, stream=True))

    def _broken(self, error: httpx.HTTPError | RemoteError) -> ChatError:
        """The error of a reply that ended in the middle. What came until then is kept."""
        if isinstance(error, RemoteError):
            return error.error.as_chat_error(self.title)
        problem = probe.connection_problem(error)
        remedy = N_("Continue writes on.") if self.dialect.continues else N_("Try again.")
        return GenerationError(f"{self.title}: {problem}, in the middle of the reply.", remedy)

    async def _read(self, response: httpx.Response, reader: ReplyReader) -> AsyncGenerator[ReplyDelta]:
        pieces = response.aiter_bytes()
        started = time.monotonic()
        # Some send a stream of events as another type.
        is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
        begin = b"" if is_stream else await within(FIRST_EVENT_SECONDS, beginning(pieces))
        if not is_stream and begin[:1] in WHOLE_BODIES:
            rest = await within(FIRST_EVENT_SECONDS, whole(pieces))
            yield _completion(begin + rest, reader)
            return
        events, last = EventReader(), started
        piece: bytes | None = begin
        with contextlib.closing(WaitLimit()) as limit:
            while True:
                for data in events.push(piece) if piece is not None else events.flush():
                    delta = reader.push(data)
                    if delta is not None:
                        last = time.monotonic()
                        yield delta
                    if reader.is_over:
                        return
                if piece is None:
                    return
                most = NEXT_EVENT_SECONDS if reader.has_begun else FIRST_EVENT_SECONDS
                try:
                    piece = await limit.wait(anext(pieces, None), last + most - time.monotonic())
                except TimeoutError:
                    raise no_piece() from None

    def _counting(
        self, replica: Replica, body: dict[str, Any], prompt: Prompt, last: ReplyDelta
    ) -> asyncio.Task[Prompt] | None:
        """Asks for the prompt, if nothing else tells how many tokens it has and the server has a route for it."""
        is_counted = last.finish is None or last.finish.told_prompt_tokens is not None or bool(prompt.token_ids)
        if is_counted or not self.dialect.prompt:
            return None
        return asyncio.create_task(self._told_prompt(replica, body, prompt))

    async def _told_prompt(self, replica: Replica, body: dict[str, Any], prompt: Prompt) -> Prompt:
        """The prompt with what the server tells of it; as it is where it tells nothing."""
        try:
            told = await self.read_prompt(replica, body, prompt.messages)
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError):
            return prompt
        return prompt if told is None else replace(told, dropped=prompt.dropped, notes=prompt.notes, sent=prompt.sent)


def _completion(content: bytes, reader: ReplyReader) -> ReplyDelta:
    """The delta of a reply that came as a whole, though a stream was asked for. Raises RemoteError."""
    try:
        chunk = shallow_json.loads(content)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise RemoteError(read_error(200, content))
    if "choices" not in chunk:
        raise RemoteError(read_error(200, content))
    return reader.push_chunk(chunk) or ReplyDelta()


async def _awaited(telling: asyncio.Task[Prompt] | None, prompt: Prompt) -> Prompt:
    """The prompt that is being told, or `prompt` if none is, or not in time."""
    if telling is None:
        return prompt
    await asyncio.wait({telling}, timeout=PROMPT_SECONDS)
    return telling.result() if telling.done() else prompt


def _counted(last: ReplyDelta, prompt: Prompt) -> ReplyDelta:
    """The last delta, where it tells no number of the prompt's tokens with that of a prompt that was told."""
    finish = last.finish
    if finish is None or finish.told_prompt_tokens is not None or not prompt.token_ids:
        return last
    untold = tuple(name for name in finish.untold if name != "prompt_tokens")
    return replace(last, finish=replace(finish, prompt_tokens=len(prompt.token_ids), untold=untold))


def _with_ids(prompt: Prompt, ids: tuple[int, ...]) -> Prompt:
    """The prompt with the ids that came with the reply, if no others are known."""
    return prompt if prompt.token_ids or not ids else replace(prompt, token_ids=ids)
