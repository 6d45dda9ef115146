"""Refuses every socket that leads off this machine, in any Python that has this on its path."""

import sys

_AF_UNIX = 1
_HERE = frozenset({"localhost", "127.0.0.1", "::1", "", None})
_TO_AN_ADDRESS = frozenset({"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"})
_BY_NAME = frozenset(
    {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
)


class NetworkUsed(BaseException):
    """Something reached for the network. No handler of ordinary errors hides it."""


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event in _TO_AN_ADDRESS:
        used, address = arguments[:2]
        if getattr(used, "family", None) == _AF_UNIX or address is None:
            return
        host = address[0] if isinstance(address, tuple) else address
    elif event in _BY_NAME:
        host = arguments[0][0] if isinstance(arguments[0], tuple) else arguments[0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host not in _HERE:
        raise NetworkUsed(f"{event} {host!r}")


sys.addaudithook(_refuse)
