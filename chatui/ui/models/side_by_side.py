"""Two replies to one message at once, in a random order while their writers are hidden. Does not use Gradio."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from random import SystemRandom
from typing import Any, Literal

from chatui.backend import Backend
from chatui.chat import ChatRequest
from chatui.errors import ChatError, NotFoundError, OverloadError, unexpected
from chatui.models.votes import Choice, Contestant, Vote
from chatui.personas import Persona
from chatui.running_reply import HEARTBEAT_SECONDS, ReplyProgress
from chatui.store.records import Author, Conversation, StoredMessage, Tree
from chatui.store.rows import first_words, new_id, now

log = logging.getLogger(__name__)

RANDOM = SystemRandom()
Label = Literal["a", "b"]
MAX_PER_OWNER = 2
"""Comparisons of one owner that may run at once, in several tabs."""


@dataclass
class Side:
    """One of the two replies: its request, and what has come of it so far."""

    persona: Persona
    request: ChatRequest
    progress: ReplyProgress = field(default_factory=ReplyProgress)
    error: ChatError | None = None
    stopped: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def contestant(self) -> Contestant:
        """What a vote is about: the model, the persona and the settings."""
        return Contestant(self.request.model, self.persona.name, self.request.settings)

    @property
    def ended(self) -> bool:
        """Whether the reply is not being written any more, for whatever reason."""
        return self.task is None or self.task.done()

    def as_tree(self) -> Tree:
        """A new conversation of the messages of the request and this reply, without the system messages."""
        chat, moment = new_id(), now()
        turns = [message for message in self.request.messages if message.role != "system"]
        ids = [new_id() for _ in range(len(turns) + 1)]
        path = [
            StoredMessage(id, chat, parent, message.role, message.content, moment, reasoning=message.reasoning)
            for id, parent, message in zip(ids, [None, *ids], turns, strict=False)
        ]
        system = "\n\n".join(message.content for message in self.request.messages[:1] if message.role == "system")
        author = Author(self.request.model, "", system, self.request.settings, self.request.settings.seed or 0)
        reply = StoredMessage(ids[-1], chat, ids[-2], "assistant", self.progress.text, moment, author=author)
        ending = {"state": "stopped" if self.stopped else "finished", "finish": self.progress.finish}
        reply = replace(reply, reasoning=self.progress.reasoning, **ending)  # type: ignore[arg-type]
        question = next((message.content for message in turns if message.role == "user"), "")
        title = first_words(question)
        conversation = Conversation(chat, title, False, reply.id, False, False, moment, moment, self.persona)
        return Tree(conversation, (*path, reply))


class SideBySide:
    """A comparison of two replies. While it is `blind`, `a` and `b` are in random order, else in the given one.

    Nothing of a `temporary` one is stored; what its model has of it is forgotten with its `chat`, or at its end if
    there is none. `choice` is the vote, once there is one.
    """

    def __init__(
        self,
        owner: str,
        sides: Sequence[Side],
        blind: bool = True,
        temporary: bool = False,
        chat: str = "",
        shuffle: Callable[[list[Any]], None] = RANDOM.shuffle,
    ) -> None:
        self.owner, self.blind, self.temporary, self.chat = owner, blind, temporary, chat
        order = list(sides)
        if blind:
            shuffle(order)
        self.a, self.b = order
        self.choice: Choice | None = None
        self._changed = asyncio.Event()

    @property
    def sides(self) -> dict[Label, Side]:
        """The sides by their labels."""
        return {"a": self.a, "b": self.b}

    @property
    def running(self) -> bool:
        """Whether one of the replies is still being written."""
        return not (self.a.ended and self.b.ended)

    @property
    def can_vote(self) -> bool:
        """Whether there are two replies that can be compared without knowing who wrote them."""
        failed = self.a.error is not None or self.b.error is not None
        has_text = bool(self.a.progress.text or self.b.progress.text)
        return self.blind and self.choice is None and not self.running and not failed and has_text

    @property
    def names_shown(self) -> bool:
        """Whether it is shown who wrote which reply, how fast, and with what thoughts before."""
        return not self.blind or not (self.running or self.can_vote)

    def vote(self, choice: Choice, tags: tuple[str, ...]) -> Vote:
        """The vote for storage. Raises ChatError if there is nothing to vote on."""
        if not self.can_vote:
            raise ChatError("There is nothing to vote on.", "Compare two replies first, and let both end.")
        return Vote(self.a.contestant, self.b.contestant, choice, now(), tags)

    def stop(self, label: Label) -> None:
        """Stop one reply; the other one goes on."""
        side = self.sides[label]
        if side.task is not None and not side.task.done():
            side.stopped = True
            side.task.cancel()

    async def run(self, backend: Backend) -> AsyncGenerator[None]:
        """Write both replies. Yields at once, at each change and each HEARTBEAT_SECONDS, the last time when both ended.

        Closing the iterator stops both.
        """
        for side in self.sides.values():
            side.task = asyncio.create_task(self._generate(backend, side))
            side.task.add_done_callback(lambda _: self._changed.set())
        try:
            running = True
            while running:
                running = self.running
                self._changed.clear()
                yield
                if running:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(HEARTBEAT_SECONDS):
                            await self._changed.wait()
        finally:
            for label in self.sides:
                self.stop(label)
            tasks = [side.task for side in self.sides.values() if side.task is not None]
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.temporary and not self.chat:
                for side in self.sides.values():
                    backend.forget(side.request.temporary_conversation)

    async def _generate(self, backend: Backend, side: Side) -> None:
        try:
            async with contextlib.aclosing(backend.stream(side.request)) as stream:
                async for delta in stream:
                    side.progress.add(delta)
                    self._changed.set()
        except ChatError as error:
            side.error = error
        except Exception as error:
            log.exception("a reply of a comparison failed")
            side.error = unexpected(error)


class RecentTabs:
    """The tabs that were seen latest, at most `max_tabs`."""

    def __init__(self, max_tabs: int) -> None:
        self._max_tabs = max_tabs
        self._seen: dict[str, None] = {}

    def add(self, tab: str) -> bool:
        """Whether this tab was not seen before, or long ago."""
        new = tab not in self._seen
        self._seen.pop(tab, None)
        self._seen[tab] = None
        if len(self._seen) > self._max_tabs:
            del self._seen[next(iter(self._seen))]
        return new


class Comparisons:
    """The latest comparison of each tab, in memory."""

    def __init__(self, max_tabs: int) -> None:
        self._max_tabs = max_tabs
        self._by_tab: dict[str, SideBySide] = {}

    def start(self, tab: str, comparison: SideBySide) -> None:
        """Keep the comparison in place of the tab's previous one. Raises OverloadError, or ChatError for a program."""
        if not tab:
            raise ChatError("Replies are compared in the page only.", "Load the page again.")
        previous = self._by_tab.get(tab)
        running = [each for each in self._by_tab.values() if each.owner == comparison.owner and each.running]
        if len([each for each in running if each is not previous]) >= MAX_PER_OWNER:
            raise OverloadError("Other comparisons of yours are still running.", "Wait until one ends, or stop it.")
        self.forget(tab)
        self._by_tab[tab] = comparison
        while len(self._by_tab) > self._max_tabs:
            self.forget(next(iter(self._by_tab)))

    def find(self, tab: str, owner: str) -> SideBySide:
        """The tab's comparison. Raises NotFoundError if it has none of this owner."""
        comparison = self._by_tab.get(tab)
        if comparison is None or comparison.owner != owner:
            raise NotFoundError("comparison")
        return comparison

    def forget(self, tab: str) -> None:
        """Stop and forget the tab's comparison."""
        previous = self._by_tab.pop(tab, None)
        for label in previous.sides if previous is not None else ():
            previous.stop(label)  # type: ignore[union-attr]
