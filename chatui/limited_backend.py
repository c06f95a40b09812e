"""A backend whose users may take so many tokens, and not more."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from chatui.backend import Backend, StartableBackend
from chatui.chat import ChatRequest, ReplyDelta
from chatui.combined_backend import CombinedBackend
from chatui.errors import StoreError
from chatui.token_limits import DailyCounts, TokenUsage

log = logging.getLogger(__name__)

TOKENS_COUNTED_AT_ONCE = 32
CHARACTERS_PER_TOKEN = 4
"""Roughly, for prompts of which only the end of the reply tells the tokens."""


class LimitedBackend(CombinedBackend):
    """Passes everything on to another backend, and counts the tokens of each user."""

    def __init__(self, backend: Backend, usage: TokenUsage, counts: DailyCounts) -> None:
        """`counts` are those of all servers."""
        super().__init__([cast(StartableBackend, backend)], backend)
        self.usage, self._counts = usage, counts
        self._counting: set[asyncio.Future[None]] = set()

    def admit(self, user: str, model: str = "") -> str:
        """Reserve a place in the queue. Raises OverloadError, also if the user's tokens are used up."""
        self.usage.check(account(user))
        return super().admit(user, model)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        """Generate the reply, and count its tokens and those of its prompt. Raises OverloadError if none are left."""
        user, prompt, written, counted = account(request.user), 0, 0, 0
        try:
            await self._count(user, 0)
            self.usage.check(user)
            async with aclosing(super().stream(request)) as deltas:
                async for delta in deltas:
                    written += delta.tokens
                    if delta.prompt is not None:
                        prompt = len(delta.prompt.token_ids) or prompt or _estimated_tokens(request)
                    if delta.finish is not None:
                        prompt = delta.finish.told_prompt_tokens or prompt
                        written = delta.finish.completion_tokens
                    # Others of this user may ask meanwhile. Each addition is kept for a minute, so there are not many.
                    if prompt + written >= counted + TOKENS_COUNTED_AT_ONCE:
                        self.usage.add(user, prompt + written - counted)
                        counted = prompt + written
                    yield delta
        finally:
            if prompt + written:
                self.usage.add(user, prompt + written - counted)
                counting = asyncio.ensure_future(self._count(user, prompt + written))
                self._counting.add(counting)
                counting.add_done_callback(self._counting.discard)

    async def _count(self, user: str, tokens: int) -> None:
        """Count in the database what was taken, and take over what others have counted. A reply never fails by it."""
        if not self.usage.has_daily_limit(user):
            return
        day = self.usage.day()
        try:
            self.usage.set_today(user, day, await asyncio.to_thread(self._counts.add, user, day, tokens))
        except StoreError as error:
            log.warning("the tokens of a reply are counted on this server only: %s", error)


def account(user: str) -> str:
    """Whose limits count for a request: the caller of /v1, whatever users of its own it names."""
    return user.partition("\n")[0]


def _estimated_tokens(request: ChatRequest) -> int:
    return sum(len(message.content) for message in request.messages) // CHARACTERS_PER_TOKEN
