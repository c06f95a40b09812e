"""What every answer says to the browser, which requests from other sites are turned away, and who may log in."""

import codecs
import contextlib
import hmac
import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatui.errors import SettingsError

Login = Callable[[str, str], bool]
"""(user name, password) -> whether they are known."""

asking_address: ContextVar[str] = ContextVar("asking_address", default="")
"""Where the request that is being answered comes from, which Gradio does not tell a login."""

SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
# Hugging Face shows a Space inside a frame of its own site.
FRAME_ANCESTORS = "'self' https://huggingface.co" if os.environ.get("SPACE_ID") else "'self'"

# Gradio's page needs inline scripts and styles; everything must come from this server.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'self'",
        "object-src 'none'",
        "frame-src 'none'",
        f"frame-ancestors {FRAME_ANCESTORS}",
    )
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


class SecurityMiddleware:
    """Sets HEADERS, grants no origin but the page's own, and refuses what another site's page sends.

    What it wraps can read the client's address, or that which a proxy on this computer names for it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of any kind."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asking_address.set(scope["client"][0] if scope.get("client") else "")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in [name for name in headers if name.startswith("access-control-allow-")]:
                    del headers[name]
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        if scope["method"] not in SAFE_METHODS and is_foreign(Headers(scope=scope)):
            await refusal(403, "This request comes from another site.")(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer that both the page and the clients of /v1 can show."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": None}
    return JSONResponse({"detail": message, "error": error}, status, headers)


def is_foreign(headers: Headers) -> bool:
    """Whether a browser sent this on behalf of another site's page.

    Browsers tell by Sec-Fetch-Site on secure addresses, and by Origin on all: https://www.w3.org/TR/fetch-metadata/.
    Programs that are no browser send neither and are not meant here.
    """
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    if origin is None:
        return False
    hosts = {headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")}
    return urlsplit(origin).netloc not in {host.strip() for host in hosts if host.strip()}


def _lines_of(file: Path) -> list[str]:
    """The lines of a text file, with or without a byte order mark, as Windows' programs write it."""
    data = file.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise SettingsError("auth", f"the file {file} is not UTF-8 text") from None


def read_login(auth: str | None) -> Login | None:
    """The check of user name and password, from `user:password` or a file of such lines. Raises SettingsError."""
    if auth is None:
        return None
    path = Path(auth)
    with contextlib.suppress(RuntimeError):  # a user name may begin with ~
        path = path.expanduser()
    lines = _lines_of(path) if path.is_file() else [auth]
    known: dict[str, str] = {}
    for line in lines:
        user, colon, password = line.strip().partition(":")
        if not line.strip():
            continue
        if not (user and colon and password):
            raise SettingsError("auth", "is neither user:password nor a file with such lines")
        known[user] = password
    if not known:
        raise SettingsError("auth", f"the file {auth} holds no user:password line")

    def check(user: str, password: str) -> bool:
        expected = known.get(user)
        same = hmac.compare_digest((expected or "").encode(), password.encode())
        return same and expected is not None

    return check
