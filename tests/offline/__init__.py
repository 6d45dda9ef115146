"""No network: `seal` keeps this process, and those that it starts, from reaching any.

Python's sockets are refused by an audit hook (`sitecustomize`, which Python imports at its start
where the folder is on the path). Where the system lets a process have a network of its own, an
empty one is taken as well, which holds for native code and for every child.
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

from tests.offline import sitecustomize

PATH = os.pathsep.join(str(Path(__file__).parents[at]) for at in (0, 2))
"""The PYTHONPATH of a process that imports lipaudit from here, and is cut off as this one is."""
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41


def seal() -> None:
    """Cut this process and its children off."""
    paths = [str(Path(sitecustomize.__file__).parent), *filter(None, [os.getenv("PYTHONPATH")])]
    if paths[0] not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    if sys.platform == "linux" and os.geteuid() == 0:
        _take_empty_network()


def _take_empty_network() -> None:
    """Take a network with nothing in it but this machine itself, if that is allowed."""
    if ctypes.CDLL(None).unshare(_CLONE_NEWNET) != 0:
        return
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP_RUNNING))
