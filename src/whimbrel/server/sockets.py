"""Sockets that the server listens on, bound before anything is loaded: a port that is taken is told at once."""

import errno
import os
import socket
from typing import Any

from whimbrel.errors import WhimbrelError

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def bound(host: str, port: int, give_up: float) -> list[socket.socket]:
    """A socket for each address that ``host`` has here, all with one port; ``port`` 0 takes a free one.

    ``give_up``: seconds after which the system ends a connection whose client takes nothing of what was sent.
    Raises ``WhimbrelError`` where the name is unknown, or the port is taken or not allowed.
    """
    found: list[socket.socket] = []
    try:
        missing = None
        for family, kind, protocol, _, address in _addresses(host, port):
            number = found[0].getsockname()[1] if found else port
            try:
                found.append(_bound(family, kind, protocol, (address[0], number, *address[2:]), give_up))
            except OSError as error:  # localhost has an address of IPv6 on machines too that know no IPv6
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if missing is not None and not found:
            raise missing
    except OSError as error:
        for one in found:
            one.close()
        raise WhimbrelError(_reason(host, port, error)) from None
    return found


def address(sockets: list[socket.socket]) -> str:
    """``http://HOST:PORT`` of the first of them."""
    host, port = sockets[0].getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _addresses(host: str, port: int) -> list[Any]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(found))


def _bound(family: int, kind: int, protocol: int, address: tuple[Any, ...], give_up: float) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # started again, a server gets its port at once; Windows means another thing by it
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it
            # To close a connection waits until its client has taken what was sent: one that sleeps would stay for ever.
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(give_up * 1000))
        one.bind(address)
    except BaseException:
        one.close()
        raise
    return one


def _reason(host: str, port: int, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"there is no address {host!r} here ({error.strerror}); give --host one of this machine's"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken by another program; give another --port (0: any free one)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} of {host} is not for everybody; give a --port from 1024 on"
    return f"it is impossible to listen on port {port} of {host}: {error.strerror}"
