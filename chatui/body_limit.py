"""Limits request bodies in size, duration and number of JSON values before the application sees them."""

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
"""Bytes of a body that is not an upload: a million tokens of text. It is held in memory."""
MAX_FORM_BYTES = 64 * 2**10
"""Bytes of a form, such as the login's."""
MAX_UPLOAD_BYTES = 200_000_000
"""Bytes of an uploaded file, which is streamed to the disk."""
MAX_JSON_VALUES = 200_000
"""JSON values in a body. Each takes about 60 bytes of memory and parsing time under the GIL."""

READ_TIMEOUT_SECONDS = 30.0
MIN_BYTES_PER_SECOND = 2_000
"""Bytes per second at which a body must come once READ_TIMEOUT_SECONDS are over."""

SMALL_BODY_BYTES = 64 * 2**10
MAX_BUFFERED_BYTES = 64 * 2**20
"""Bytes beyond SMALL_BODY_BYTES that all bodies being received may take together; further ones get 503."""

UPLOAD = "/gradio_api/upload"
ENCODINGS = ("identity", "gzip", "x-gzip", "deflate")


class RefusedError(Exception):
    """The body is refused; `status` and the message are for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class UploadLimit(Protocol):
    """Limits the disk space of uploaded files."""

    async def expect(self, size: int) -> None:
        """Announce an upload of about `size` bytes. Raises RefusedError."""

    def add(self, size: int) -> None:
        """Count `size` more bytes of an upload. Raises RefusedError."""

    def end(self, size: int, complete: bool) -> None:
        """End an upload of which `size` bytes came. The file of a `complete` one is kept."""


class BodyLimit:
    """ASGI middleware that reads each body into memory before it calls the application. Uploads are streamed.

    Answers 413 for the size, 408 for the pace, and 503 if too many large bodies come at once. Compressed bodies are
    decompressed under the same limit.
    """

    def __init__(self, app: ASGIApp, uploads: UploadLimit | None = None) -> None:
        self._app, self._uploads = app, uploads
        self._buffered_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        is_form = content_type in ("multipart/form-data", "application/x-www-form-urlencoded")
        try:
            if content_type == "multipart/form-data" and scope["method"] == "POST" and scope["path"] == UPLOAD:
                await self._stream_upload(scope, headers, receive, send)
                return
            max_bytes = MAX_FORM_BYTES if is_form else MAX_BODY_BYTES
            _check_content_length(headers, max_bytes)
            body = await self._read(receive, max_bytes)
            if body is None:
                return
            if "content-encoding" in headers:
                body = decompress(body, headers["content-encoding"], max_bytes)
                scope = _uncompressed_scope(scope, len(body))
            if not is_form:
                check_json_size(body)
        except RefusedError as error:
            response_headers = _refusal_headers(error.status)
            if scope["path"] == UPLOAD:  # the page shows this text
                with i18n.use_language(i18n.negotiate(headers.get("accept-language"))):
                    response: ASGIApp = PlainTextResponse(i18n.translated(str(error)), error.status, response_headers)
            else:
                response = error_response(error.status, str(error), response_headers)
            await response(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _stream_upload(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        _check_content_length(headers, MAX_UPLOAD_BYTES + MAX_FORM_BYTES)
        if self._uploads is not None:
            content_length = headers.get("content-length", "")
            await self._uploads.expect(int(content_length) if content_length.isdecimal() else 0)
        upload = _Upload(receive, send, self._uploads)
        try:
            await self._app(scope, upload.receive, upload.send)
        finally:
            upload.end()

    async def _read(self, receive: Receive, max_bytes: int) -> bytes | None:
        """The whole body; None if the client disconnects before its end. Raises RefusedError."""
        body, pace, buffered = bytearray(), _MinimumPace(), 0
        try:
            while True:
                message = await pace.next(receive)
                if message["type"] != "http.request":
                    return None
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
                added = max(0, len(body) - SMALL_BODY_BYTES) - buffered
                buffered += added
                self._buffered_bytes += added
                if self._buffered_bytes > MAX_BUFFERED_BYTES:
                    raise RefusedError(503, "Too many large requests are coming in at once. Try again in a moment.")
                if not message.get("more_body", False):
                    return bytes(body)
        finally:
            self._buffered_bytes -= buffered


class _MinimumPace:
    """The deadline of a body: READ_TIMEOUT_SECONDS, and one second more for each MIN_BYTES_PER_SECOND received."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + READ_TIMEOUT_SECONDS

    async def next(self, receive: Receive) -> Message:
        """The next message. Raises RefusedError after the deadline."""
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise RefusedError(408, "The request came too slowly. Try again on a better connection.") from None
        self._deadline += len(message.get("body", b"")) / MIN_BYTES_PER_SECOND
        return message


class _Upload:
    """An upload in progress. A refusal is raised inside Gradio's parser, which then deletes the partial file."""

    def __init__(self, receive: Receive, send: Send, uploads: UploadLimit | None) -> None:
        self._receive, self._send, self._uploads = receive, send, uploads
        self._pace, self._read = _MinimumPace(), 0
        self._complete = self._ended = False
        self._refusal: RefusedError | None = None

    async def receive(self) -> Message:
        """The next message. Raises MultiPartException if the upload is refused or aborted."""
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
            self._refusal = error
            self.end()  # frees its space for other uploads
            raise MultiPartException(i18n.translated(str(error))) from None
        if message["type"] != "http.request":
            raise MultiPartException("The upload was broken off.")
        self._complete = not message.get("more_body", False)
        return message

    def end(self) -> None:
        """End the upload, complete or not. Later calls do nothing."""
        if self._uploads is not None and not self._ended:
            self._ended = True
            self._uploads.end(self._read, complete=self._complete)

    async def send(self, message: Message) -> None:
        """Send the response, with the status of the refusal if there was one."""
        if message["type"] == "http.response.start" and self._refusal is not None:
            message = {**message, "status": self._refusal.status}
        await self._send(message)


def check_json_size(body: bytes) -> None:
    """Raises RefusedError if a JSON body has more than MAX_JSON_VALUES. Does not check that it is valid JSON.

    Counts commas, brackets and quotes outside of strings. Parsing is the expensive part, and is avoided.
    """
    if b"\x00" in body:
        raise RefusedError(400, "JSON must be in UTF-8.")
    stripped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    values = stripped.count(b'"')
    if values <= 2 * MAX_JSON_VALUES:
        stripped = re.sub(rb'"[^"]*"?', b"", stripped)
        values = sum(stripped.count(sign) for sign in (b",", b"[", b"{"))
    if values > MAX_JSON_VALUES:
        raise RefusedError(413, f"The request has more than {MAX_JSON_VALUES:,} values.")


def decompress(body: bytes, encoding: str, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The decompressed body, of at most `max_bytes` bytes. Raises RefusedError."""
    if encoding.strip().lower() not in ENCODINGS:
        raise RefusedError(415, f"Content-Encoding {encoding[:40]!r} cannot be read: send gzip, deflate or none.")
    if encoding.strip().lower() == "identity":
        return body
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip's or zlib's header
    try:
        decompressed = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise RefusedError(400, f"The body is not what its Content-Encoding says ({error}).") from None
    if len(decompressed) > max_bytes:
        raise _too_large(max_bytes)
    if not decompressor.eof:
        raise RefusedError(400, "The compressed body ends early.")
    return decompressed


def _uncompressed_scope(scope: Scope, length: int) -> Scope:
    """The ASGI scope of the same request with an uncompressed body of `length` bytes."""
    removed = (b"content-encoding", b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in removed]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}


def _check_content_length(headers: Headers, max_bytes: int) -> None:
    content_length = headers.get("content-length", "")
    if content_length.isdecimal() and (len(content_length) > 15 or int(content_length) > max_bytes):
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> RefusedError:
    return RefusedError(
        413, N_(f"The request has more than {max_bytes:,} bytes, which is the most that is taken here.")
    )


def _refusal_headers(status: int) -> dict[str, str]:
    if status == 408:  # the rest of the body is not read
        return {"Connection": "close"}
    return {"Retry-After": {503: "2", 507: "60"}[status]} if status in (503, 507) else {}


def _replay(body: bytes, receive: Receive) -> Receive:
    """An ASGI receive() that first returns the body, then continues with `receive`."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
