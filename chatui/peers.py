"""Who is at the other end of a request: a program of this computer, and of the account that runs the server."""

import ipaddress
import os
import socket
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from chatui.security import host_of, is_local, unmapped

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
"""Where Linux lists its connections, with the account at each end that is on this computer."""

FORWARDED = ("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip")
"""Set by reverse proxies, behind which everyone seems to be on this computer; so is all that begins x-forwarded-."""

SOCK_DIAG = 4
"""Linux's netlink protocol that finds one connection; to go through the lists takes 10 ms where there are thousands."""
REQUEST = struct.Struct("=IHHII BBxxI 2s2s16s16sI8s")
"""A netlink header, and what inet_diag_req_v2 has: family, protocol, states, and both ends."""
ANSWER = struct.Struct("=IHHII xB2x48x12xII")
"""A netlink header, and of inet_diag_msg the state, the account and the inode."""
BY_FAMILY = 20
ANY_STATE, NO_COOKIE = 0xFFFFFFFF, b"\xff" * 8
LISTENING = 10
"""Where there is no such connection, Linux finds who listens at the first end."""

ROOT = 0
MAX_CONNECTIONS = 1000


class OwnAccount:
    """Tells the requests of the person who runs the server, at this very computer, from all others.

    A system that does not tell which account a connection belongs to is trusted, unless `sure`.
    """

    def __init__(self, sure: bool) -> None:
        self._sure = sure
        self._known: OrderedDict[int, tuple[object, bool]] = OrderedDict()

    def asks(self, scope: Scope) -> bool:
        """Whether that person's own browser or program has sent this request to a local name, past every proxy."""
        headers, client = Headers(scope=scope), scope.get("client")
        if not client or not is_local(client[0]) or not is_local(host_of(headers)) or is_forwarded(headers):
            return False
        return not _is_foreign_part(headers) and self._own_connection(scope)

    def _own_connection(self, scope: Scope) -> bool:
        """Looked up once for each connection, all of whose requests have the same object for a client."""
        client = scope["client"]
        known, own = self._known.get(id(client), (None, False))
        if known is not client:
            own = self._is_own(client, scope.get("server"))
            self._known[id(client)] = client, own
            if len(self._known) > MAX_CONNECTIONS:
                self._known.popitem(last=False)
        return own

    def _is_own(self, client: tuple[str, int], server: tuple[str, int] | None) -> bool:
        if not any(table.exists() for table in TABLES):
            return not self._sure
        if not server:
            return False
        ends = [(_plain(host), port) for host, port in (client, server)]
        return any(account in (ROOT, os.geteuid()) for account in _accounts(ends))


def _accounts(ends: Sequence[tuple[str, Any]]) -> Iterator[int]:
    """Whose socket connects the first of two ends with the second, as long as a program has it open."""
    found = _found(ends)
    if found is not None:
        yield found
        return
    for table in TABLES:
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            columns = line.split()
            account, inode = columns[7], columns[9]
            # What nobody has open any more is nobody's, and is listed as root's.
            if inode != "0" and [_address(column) for column in columns[1:3]] == ends:
                yield int(account)


def _found(ends: Sequence[tuple[str, Any]]) -> int | None:
    """The same by the short way; None where it finds nothing, or is not there."""
    addresses = [ipaddress.ip_address(host) for host, _ in ends]
    family = socket.AF_INET if addresses[0].version == 4 else socket.AF_INET6
    ports = [port.to_bytes(2, "big") for _, port in ends]
    packed = [address.packed.ljust(16, b"\0") for address in addresses]
    body = (family, socket.IPPROTO_TCP, ANY_STATE, *ports, *packed, 0, NO_COOKIE)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as kernel:
            kernel.setblocking(False)
            kernel.send(REQUEST.pack(REQUEST.size, BY_FAMILY, 1, 0, 0, *body))
            answer = kernel.recv(4096)
    except (OSError, AttributeError):  # no such protocol, or no such system
        return None
    if len(answer) < ANSWER.size:
        return None
    _, kind, _, _, _, state, account, inode = ANSWER.unpack_from(answer)
    return account if kind == BY_FAMILY and inode and state != LISTENING else None


def _address(written: str) -> tuple[str, int]:
    """An address and a port as Linux lists them: words of four bytes as the machine keeps them."""
    host, _, port = written.partition(":")
    words = [bytes.fromhex(host[start : start + 8]) for start in range(0, len(host), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return _plain(str(ipaddress.ip_address(packed))), int(port, 16)


def _plain(host: str) -> str:
    """The address itself where it is an IPv4 one in the shape of IPv6, else as it is."""
    return str(unmapped(host) or host)


def _is_foreign_part(headers: Headers) -> bool:
    """Whether another site's page has asked, for more than to be left for this one, or a page under another name."""
    origin = headers.get("origin")
    if origin is not None and not is_local(_name_in(origin)):
        return True
    another = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    return another and headers.get("sec-fetch-mode") != "navigate"


def _name_in(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def is_forwarded(headers: Headers) -> bool:
    """Whether a proxy has passed this on."""
    return any(name in FORWARDED or name.startswith("x-forwarded-") for name in headers)
