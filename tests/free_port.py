"""Ports for tests that choose one now and use it later."""

from __future__ import annotations

import itertools
import os
import socket

# Below the ports that the kernel gives to outgoing connections (32768 and up), any of which may be in use a second
# later, and above the usual ones. Runs beside each other begin at different places.
_FIRST, _COUNT = 18_000, 14_000
_CANDIDATES = itertools.count(os.getpid() * 37)


def free_port(address: str = "127.0.0.1") -> int:
    """One of `address` on which nobody listens, and which no other test of this run gets."""
    for number in _CANDIDATES:
        port = _FIRST + number % _COUNT
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise AssertionError("unreachable: the candidates never end")
