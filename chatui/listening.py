"""Opens the socket that the server listens on, and names its address."""

import errno
import socket

from chatui.errors import SettingsError
from chatui.settings import AppSettings


def bind(settings: AppSettings) -> socket.socket:
    """A socket bound to the address of the settings, which does not listen yet. Raises SettingsError."""
    try:
        addresses = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise SettingsError(
            "host",
            f"{settings.host} is no address and no known name.",
            "Leave it out, or take 0.0.0.0 to listen on every network.",
        ) from None
    family, *_, bind_address = min(addresses, key=lambda entry: entry[0] != socket.AF_INET)
    server_socket = socket.socket(family)
    server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server_socket.bind(bind_address)
    except OSError as error:
        server_socket.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise SettingsError(
                "host",
                f"{settings.host} is not an address of this computer.",
                "Leave it out, or take 0.0.0.0 to listen on every network.",
            ) from error
        raise SettingsError(
            "port",
            f"{settings.host}:{settings.port} cannot be used ({error.strerror}).",
            "Choose another with --port, or --port 0 for any free one.",
        ) from error
    return server_socket
