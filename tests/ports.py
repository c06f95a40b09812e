"""Ports for servers that are started later."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of this computer on which nobody listens, and which nobody else is given until the end of the block.

    A server can listen on it: as servers do, this socket allows others at its address while it does not listen itself.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        if sys.platform != "linux":  # elsewhere the server could not take it
            held.close()
        yield port
