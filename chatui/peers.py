"""Detects whether a request comes from this computer and from the account that runs the server."""

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

from chatui.security import host_of, is_local, parse_ip

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
"""Linux's tables of TCP connections, with the account (uid) of each local socket."""

FORWARDED_HEADERS = ("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip")
"""Headers of reverse proxies, besides all that begin with x-forwarded-. Behind a proxy every client seems local."""

SOCK_DIAG = 4
"""Linux's netlink protocol that looks up one connection. Reading TABLES takes 10 ms with thousands of connections."""
REQUEST = struct.Struct("=IHHII BBxxI 2s2s16s16sI8s")
"""A netlink header and inet_diag_req_v2: family, protocol, states, and both ends."""
ANSWER = struct.Struct("=IHHII xB2x48x12xII")
"""A netlink header and, of inet_diag_msg, the state, the uid and the inode."""
BY_FAMILY = 20
ANY_STATE, NO_COOKIE = 0xFFFFFFFF, b"\xff" * 8
TCP_LISTEN = 10
"""TCP state of the socket that Linux returns if there is no such connection: the listener at the first end."""

ROOT = 0
MAX_CONNECTIONS = 1000


class OwnAccount:
    """Recognizes requests from this computer and from the account that runs the server.

    On systems without a table of connections every local request counts as such, unless `strict`.
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._cache: OrderedDict[int, tuple[object, bool]] = OrderedDict()

    def is_sender(self, scope: Scope) -> bool:
        """Whether a program of the account sent this request to a local host name, and not through a proxy."""
        headers, client = Headers(scope=scope), scope.get("client")
        if not client or not is_local(client[0]) or not is_local(host_of(headers)) or is_forwarded(headers):
            return False
        return not _is_cross_site(headers) and self._own_connection(scope)

    def _own_connection(self, scope: Scope) -> bool:
        """Whether the connection belongs to the account. Cached by the `client` object, which its requests share."""
        client = scope["client"]
        cached_client, is_own = self._cache.get(id(client), (None, False))
        if cached_client is not client:
            is_own = self._is_own(client, scope.get("server"))
            self._cache[id(client)] = client, is_own
            if len(self._cache) > MAX_CONNECTIONS:
                self._cache.popitem(last=False)
        return is_own

    def _is_own(self, client: tuple[str, int], server: tuple[str, int] | None) -> bool:
        if not any(table.exists() for table in TABLES):
            return not self._strict
        if not server or any(parse_ip(host) is None for host, _ in (client, server)):  # such as a socket's path
            return False
        ends = [(_unmapped(host), port) for host, port in (client, server)]
        return any(uid in (ROOT, os.geteuid()) for uid in _accounts(ends))


def _accounts(ends: Sequence[tuple[str, Any]]) -> Iterator[int]:
    """The uids of the open sockets that connect the first of two ends, (host, port), with the second."""
    netlink_uid = _netlink_account(ends)
    if netlink_uid is not None:
        yield netlink_uid
        return
    for table in TABLES:
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            columns = line.split()
            uid, inode = columns[7], columns[9]
            # A closed socket has inode 0 and is listed with root's uid.
            if inode != "0" and [_parse_address(column) for column in columns[1:3]] == ends:
                yield int(uid)


def _netlink_account(ends: Sequence[tuple[str, Any]]) -> int | None:
    """The uid by a netlink lookup; None if there is no such connection, or netlink is not available."""
    addresses = [ipaddress.ip_address(host) for host, _ in ends]
    family = socket.AF_INET if addresses[0].version == 4 else socket.AF_INET6
    ports = [port.to_bytes(2, "big") for _, port in ends]
    packed = [address.packed.ljust(16, b"\0") for address in addresses]
    body = (family, socket.IPPROTO_TCP, ANY_STATE, *ports, *packed, 0, NO_COOKIE)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as netlink:
            netlink.setblocking(False)
            netlink.send(REQUEST.pack(REQUEST.size, BY_FAMILY, 1, 0, 0, *body))
            answer = netlink.recv(4096)
    except (OSError, AttributeError):  # not Linux, or no sock_diag
        return None
    if len(answer) < ANSWER.size:
        return None
    _, kind, _, _, _, state, uid, inode = ANSWER.unpack_from(answer)
    return uid if kind == BY_FAMILY and inode and state != TCP_LISTEN else None


def _parse_address(text: str) -> tuple[str, int]:
    """(host, port) of an entry of TABLES, which has the address as hexadecimal words in the machine's byte order."""
    host, _, port = text.partition(":")
    words = [bytes.fromhex(host[start : start + 8]) for start in range(0, len(host), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return _unmapped(str(ipaddress.ip_address(packed))), int(port, 16)


def _unmapped(host: str) -> str:
    """An IPv4 address that is mapped into IPv6 as IPv4; any other host unchanged."""
    return str(parse_ip(host) or host)


def _is_cross_site(headers: Headers) -> bool:
    """Whether a page of another site sent the request. False for a link from it to this site."""
    origin = headers.get("origin")
    if origin is not None and not is_local(_origin_host(origin)):
        return True
    is_cross_site = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    return is_cross_site and headers.get("sec-fetch-mode") != "navigate"


def _origin_host(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def is_forwarded(headers: Headers) -> bool:
    """Whether a proxy forwarded the request."""
    return any(name in FORWARDED_HEADERS or name.startswith("x-forwarded-") for name in headers)
