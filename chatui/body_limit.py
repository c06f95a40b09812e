"""Bodies of requests, read within limits of size, time and number of values before anything else sees them."""

import asyncio
import re
import time
import zlib
from typing import Protocol

from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatui import i18n
from chatui.i18n import N_
from chatui.security import error_response

MAX_BODY_BYTES = 4 * 2**20
"""Bytes: a million tokens of text. All of it is held in memory."""
MAX_FORM_BYTES = 64 * 2**10
"""Bytes of a form, such as the login's."""
MAX_UPLOAD_BYTES = 200_000_000
"""Bytes of a file: years of conversations from elsewhere. It goes to the disk as it comes."""
MAX_JSON_VALUES = 200_000
"""Values in JSON: each takes some 60 bytes and some of everybody's time, however little it says."""

READ_TIMEOUT_SECONDS = 30.0
MIN_BYTES_PER_SECOND = 2_000
"""Bytes per second that a body must come at, once PATIENCE_SECONDS are over."""

SMALL_BODY_BYTES = 64 * 2**10
MAX_BUFFERED_BYTES = 64 * 2**20
"""Bytes of bodies above SMALL that may be on their way at once; one more is asked to come again."""

UPLOAD = "/gradio_api/upload"
ENCODINGS = ("identity", "gzip", "x-gzip", "deflate")


class RefusedError(Exception):
    """This body is not taken; `status` and the message are for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class UploadLimit(Protocol):
    """The room that there is for uploaded files."""

    async def expect(self, size: int) -> None:
        """One of about this size is coming. Raises RefusedError."""

    def add(self, size: int) -> None:
        """So many bytes more have come. Raises RefusedError."""

    def end(self, size: int, stays: bool) -> None:
        """An upload is over, of which so many bytes had come; its file is removed unless it `stays`."""


class BodyLimit:
    """Reads each body whole, which must be small, and hands it on; an upload goes through piece by piece.

    What it wraps never sees a body that is refused: with 413 for its size, 408 for its pace, 503 when too many large
    ones come at once. A body that is compressed is unpacked, under the same limit.
    """

    def __init__(self, app: ASGIApp, uploads: UploadLimit | None = None) -> None:
        self._app, self._uploads = app, uploads
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of any kind."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        is_form = kind in ("multipart/form-data", "application/x-www-form-urlencoded")
        try:
            if kind == "multipart/form-data" and scope["method"] == "POST" and scope["path"] == UPLOAD:
                await self._pass_upload(scope, headers, receive, send)
                return
            most = MAX_FORM_BYTES if is_form else MAX_BODY_BYTES
            _check_announced(headers, most)
            body = await self._read(receive, most)
            if body is None:
                return
            if "content-encoding" in headers:
                body = decompress(body, headers["content-encoding"], most)
                scope = _plain(scope, len(body))
            if not is_form:
                check_json_size(body)
        except RefusedError as error:
            advice = _refusal_headers(error.status)
            if scope["path"] == UPLOAD:  # the page shows what it is told here
                with i18n.use_language(i18n.negotiate(headers.get("accept-language"))):
                    answer: ASGIApp = PlainTextResponse(i18n.translated(str(error)), error.status, advice)
            else:
                answer = error_response(error.status, str(error), advice)
            await answer(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _pass_upload(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        _check_announced(headers, MAX_UPLOAD_BYTES + MAX_FORM_BYTES)
        if self._uploads is not None:
            announced = headers.get("content-length", "")
            await self._uploads.expect(int(announced) if announced.isdecimal() else 0)
        upload = _Upload(receive, send, self._uploads)
        try:
            await self._app(scope, upload.receive, upload.send)
        finally:
            upload.end()

    async def _read(self, receive: Receive, most: int) -> bytes | None:
        """The whole body; None where the client leaves before its end. Raises RefusedError."""
        body, pace, held = bytearray(), _Pace(), 0
        try:
            while True:
                message = await pace.next(receive)
                if message["type"] != "http.request":
                    return None
                body += message.get("body", b"")
                if len(body) > most:
                    raise _too_large(most)
                more = max(0, len(body) - SMALL_BODY_BYTES) - held
                held += more
                self._held += more
                if self._held > MAX_BUFFERED_BYTES:
                    raise RefusedError(503, "Too many large requests are coming in at once. Try again in a moment.")
                if not message.get("more_body", False):
                    return bytes(body)
        finally:
            self._held -= held


class _Pace:
    """How long a body may take: PATIENCE_SECONDS, and longer the more of it has come."""

    def __init__(self) -> None:
        self._latest = time.monotonic() + READ_TIMEOUT_SECONDS

    async def next(self, receive: Receive) -> Message:
        """The next message. Raises RefusedError where it comes too late."""
        try:
            async with asyncio.timeout(self._latest - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise RefusedError(408, "The request came too slowly. Try again on a better connection.") from None
        self._latest += len(message.get("body", b"")) / MIN_BYTES_PER_SECOND
        return message


class _Upload:
    """A file on its way. Gradio removes what it has of it when its parser fails, and only then."""

    def __init__(self, receive: Receive, send: Send, uploads: UploadLimit | None) -> None:
        self._receive, self._send, self._uploads = receive, send, uploads
        self._pace, self._read = _Pace(), 0
        self._complete = self._ended = False
        self._refused: RefusedError | None = None

    async def receive(self) -> Message:
        """The next piece. Raises MultiPartException where there is none that is taken."""
        if self._complete:
            return await self._receive()
        try:
            message = await self._pace.next(self._receive)
            size = len(message.get("body", b""))
            self._read += size
            if self._uploads is not None:
                self._uploads.add(size)
            if self._read > MAX_UPLOAD_BYTES + MAX_FORM_BYTES:
                raise _too_large(MAX_UPLOAD_BYTES)
        except RefusedError as error:
            self._refused = error
            self.end()  # others that are coming may have its room
            raise MultiPartException(i18n.translated(str(error))) from None
        if message["type"] != "http.request":
            raise MultiPartException("The upload was broken off.")
        self._complete = not message.get("more_body", False)
        return message

    def end(self) -> None:
        """It is over, however it went; again does nothing."""
        if self._uploads is not None and not self._ended:
            self._ended = True
            self._uploads.end(self._read, stays=self._complete)

    async def send(self, message: Message) -> None:
        """The answer, with the status of a refusal."""
        if message["type"] == "http.response.start" and self._refused is not None:
            message = {**message, "status": self._refused.status}
        await self._send(message)


def check_json_size(body: bytes) -> None:
    """Raises RefusedError where JSON has more values than may be read at once; what is no JSON is left to others.

    To read it is what takes the time, so its commas, brackets and quotes are counted, without what is in texts.
    """
    if b"\x00" in body:
        raise RefusedError(400, "JSON must be in UTF-8.")
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"")
    values = bare.count(b'"')
    if values <= 2 * MAX_JSON_VALUES:
        bare = re.sub(rb'"[^"]*"?', b"", bare)
        values = sum(bare.count(sign) for sign in (b",", b"[", b"{"))
    if values > MAX_JSON_VALUES:
        raise RefusedError(413, f"The request has more than {MAX_JSON_VALUES:,} values.")


def decompress(body: bytes, encoding: str, most: int = MAX_BODY_BYTES) -> bytes:
    """A body without its Content-Encoding. Raises RefusedError."""
    if encoding.strip().lower() not in ENCODINGS:
        raise RefusedError(415, f"Content-Encoding {encoding[:40]!r} cannot be read: send gzip, deflate or none.")
    if encoding.strip().lower() == "identity":
        return body
    inflating = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip's or zlib's header
    try:
        found = inflating.decompress(body, most + 1)
    except zlib.error as error:
        raise RefusedError(400, f"The body is not what its Content-Encoding says ({error}).") from None
    if len(found) > most:
        raise _too_large(most)
    if not inflating.eof:
        raise RefusedError(400, "The compressed body ends early.")
    return found


def _plain(scope: Scope, length: int) -> Scope:
    """The request as it would be with a body of this length that nothing has compressed."""
    gone = (b"content-encoding", b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in gone]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}


def _check_announced(headers: Headers, most: int) -> None:
    announced = headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 15 or int(announced) > most):
        raise _too_large(most)


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, N_(f"The request has more than {most:,} bytes, which is the most that is taken here."))


def _refusal_headers(status: int) -> dict[str, str]:
    if status == 408:  # the rest of the body is not waited for
        return {"Connection": "close"}
    return {"Retry-After": {503: "2", 507: "60"}[status]} if status in (503, 507) else {}


def _replay(body: bytes, receive: Receive) -> Receive:
    """Receives the body that has been read, and then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return messages.pop() if messages else await receive()

    return received
