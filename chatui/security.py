"""Sets security headers, refuses cross-site requests and DNS rebinding, and checks logins."""

import codecs
import contextlib
import hmac
import ipaddress
import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from chatui.errors import SettingsError
from chatui.setting_values import shorten
from chatui.settings import AppSettings

Login = Callable[[str, str], bool]
"""(user name, password) -> whether the password is right."""

client_address: ContextVar[str] = ContextVar("client_address", default="")
"""The client address of the current request. Gradio does not pass it to a login check."""

NAT64 = ipaddress.ip_network("64:ff9b::/96")
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
# The Hugging Face site shows a Space in a frame.
FRAME_ANCESTORS = "'self' https://huggingface.co" if os.environ.get("SPACE_ID") else "'self'"

# Gradio's page needs inline scripts and styles. All other content must come from this server.
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
    """Sets HEADERS, removes CORS grants, and refuses requests from other sites' pages.

    Sets `client_address` to the client's address for the wrapped application.
    """

    def __init__(self, app: ASGIApp, hosts: "AllowedHosts | None" = None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_address.set(scope["client"][0] if scope.get("client") else "")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in [name for name in headers if name.startswith("access-control-allow-")]:
                    del headers[name]
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        if reason := self._refusal_reason(scope["method"], Headers(scope=scope)):
            await error_response(403, reason)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _refusal_reason(self, method: str, headers: Headers) -> str | None:
        host = host_of(headers)
        if self._hosts is not None and host not in self._hosts:
            return (
                f"This server was asked for as {shorten(host)}, and answers to this computer's own names only. "
                f"If that is its name, start it with --allowed-hosts {host[:60]}."
            )
        return cross_site_reason(headers) if method not in SAFE_METHODS else None


class ClientAddress:
    """Puts the client's address and scheme into the ASGI scope, from the X-Forwarded headers of trusted `proxies`."""

    def __init__(self, app: ASGIApp, proxies: Sequence[str]) -> None:
        # uvicorn takes "*" for all addresses only if it is the only item.
        self._app: Any = ProxyHeadersMiddleware(app, "*" if "*" in proxies else list(proxies))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request. A server on `::` sees a proxy's IPv4 address mapped into IPv6."""
        client = scope.get("client")
        if client and (address := str(parse_ip(client[0]) or client[0])) != client[0]:
            scope = {**scope, "client": (address, client[1])}
        await self._app(scope, receive, send)


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error response in the formats of both Gradio and OpenAI."""
    error_type = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": error_type, "param": None, "code": None}
    return JSONResponse({"detail": message, "error": error}, status, headers)


def cross_site_reason(headers: Headers) -> str | None:
    """The reason to refuse a request that a browser sent for another site's page; None if it is allowed.

    Browsers send Sec-Fetch-Site on secure addresses, and Origin on all; a page can change neither:
    https://www.w3.org/TR/fetch-metadata/. Programs other than browsers send neither, and are allowed.
    """
    site = headers.get("sec-fetch-site")
    if site == "same-origin":
        return None
    if site not in (None, "none"):
        return "This request comes from another site."
    origin = headers.get("origin")
    if origin is None:
        return None
    hosts = {headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")}
    hosts = {host.strip().lower() for host in hosts if host.strip()}
    if _netloc(origin) in hosts:
        return None
    return (
        f"This request comes from a page at {shorten(origin)}, but here it arrived for "
        f"{', '.join(map(shorten, sorted(hosts))) or 'no host'}. If that page is this one behind a reverse proxy, the "
        "proxy must pass on the address with its port: for nginx `proxy_set_header Host $http_host;`, for others "
        "X-Forwarded-Host."
    )


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def is_local(host: str) -> bool:
    """Whether a host name or address is the loopback one of this computer."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return (parsed := parse_ip(host)) is not None and parsed.is_loopback


def serves_one_computer(settings: AppSettings) -> bool:
    """Whether the server is for the people at this computer alone: no login, --share, proxy path or other network."""
    return not (settings.share or settings.auth or settings.root_path) and is_local(settings.host)


def parse_ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The parsed address; an IPv4 address mapped into IPv6 as IPv4. None if it is not an address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if parsed.version == 6 and parsed.ipv4_mapped:
        return parsed.ipv4_mapped
    if parsed.version == 6 and parsed in NAT64:
        return ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    return parsed


def host_of(headers: Headers) -> str:
    """The Host header without its port."""
    host = headers.get("host", "").strip()
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


class AllowedHosts:
    """The host names that requests may have in their Host header.

    Protects against DNS rebinding: another site can let its host name resolve to this computer, and its page is then
    same-origin for the browser. A server on a loopback address accepts only local names and those `allowed`
    (`*.example.org` for subdomains, `*` for any). A server on another address accepts any name if `allowed` is empty.
    """

    def __init__(self, host: str, allowed: Sequence[str] = (), share: bool = False) -> None:
        self._allowed = [name.lower() for name in allowed]
        self._allow_any = "*" in allowed or (not allowed and not is_local(host))
        if share:
            self.add("*.gradio.live")

    def add(self, name: str) -> None:
        """Allow one more name."""
        self._allowed.append(name.lower())

    def __contains__(self, host: str) -> bool:
        """Whether a host name is allowed. An empty one is: browsers always send a Host header."""
        name = host.lower().rstrip(".")
        if self._allow_any or not name or is_local(name):
            return True
        return any(name == rule or (rule.startswith("*.") and name.endswith(rule[1:])) for rule in self._allowed)


def _read_lines(file: Path) -> list[str]:
    """The lines of a file in UTF-8, or in UTF-16 with a byte order mark (as on Windows). Raises SettingsError."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SettingsError("auth", f"the file {file} cannot be read: {error.strerror}") from None
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_utf16 else "utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise SettingsError("auth", f"the file {file} is not UTF-8 text") from None


class Passwords(dict[str, str]):
    """Passwords by user name."""

    def check(self, user: str, password: str) -> bool:
        """Whether this is the user's password. Compares in constant time."""
        expected = self.get(user)
        same = hmac.compare_digest((expected or "").encode(), password.encode())
        return same and expected is not None


def read_login(auth: str | None) -> Passwords | None:
    """The passwords of --auth, from `user:password` or a file with such lines. Lines that start with # are comments.

    None without --auth. Raises SettingsError.
    """
    if auth is None:
        return None
    path = Path(auth)
    with contextlib.suppress(RuntimeError):  # a user name may begin with ~
        path = path.expanduser()
    if auth and path.is_dir():
        raise SettingsError("auth", f"{auth} is a folder, not a file with user:password lines")
    in_file = path.is_file()
    lines = _read_lines(path) if in_file else [auth]
    passwords = Passwords()
    for line in lines:
        user, colon, password = line.strip().partition(":")
        user = user.rstrip()
        if not line.strip() or (in_file and user.startswith("#")):
            continue
        if not (user and colon and password):
            raise SettingsError("auth", "is neither user:password nor a file with such lines")
        if user in passwords:
            raise SettingsError("auth", f"the file {auth} names {user} twice")
        passwords[user] = password
    if not passwords:
        raise SettingsError("auth", f"the file {auth} holds no user:password line")
    return passwords
