"""Reads the bodies of responses that are no streams of events, within limits of time and size."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

import httpx

from chatui.errors import GenerationError
from chatui.remote.server_errors import ServerError, read_error

MAX_COMPLETION_BYTES = 16_000_000

T = TypeVar("T")


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    """Its result. Raises httpx.ReadTimeout if there is none in time."""
    try:
        async with asyncio.timeout(seconds):
            return await awaitable
    except TimeoutError:
        raise no_piece() from None


def no_piece() -> httpx.ReadTimeout:
    """The error of what does not come in time."""
    return httpx.ReadTimeout("no piece of a reply in time")


async def beginning(pieces: AsyncIterator[bytes]) -> bytes:
    """The first bytes that are no space; none if there are none."""
    async for piece in pieces:
        if begin := piece.lstrip():
            return begin
    return b""


async def refusal(response: httpx.Response, seconds: float) -> ServerError:
    """Why a server refuses a request, from its response, whose body may take so long."""
    if response.is_redirect:
        return ServerError(421, "it redirects to another address, which is not followed")
    body = b""
    with contextlib.suppress(httpx.HTTPError):
        body = await within(seconds, whole(response.aiter_bytes()))
    return read_error(response.status_code, body, response.headers)


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    """All the pieces, up to a limit. Raises GenerationError."""
    content = bytearray()
    async for piece in pieces:
        content += piece
        if len(content) > MAX_COMPLETION_BYTES:
            raise GenerationError("The server sent a reply that is too long.")
    return bytes(content)
