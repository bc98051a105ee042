"""A port of this machine's loopback that leads somewhere else: each connection is handed to a function."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from astro_cli.foundation.ports import LOOPBACK
from astro_cli.runtime.engine import PortTakenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def forwarded(port: int, join: Callable[[socket.socket], None]) -> Iterator[None]:
    """Listen on the loopback interface; when left, whatever is still connected is cut off.

    Args:
        port: of this machine.
        join: called in a thread of its own for each connection; returns when that has ended.

    Raises:
        PortTakenError: something else listens there.
    """
    try:
        listener = socket.create_server((LOOPBACK, port))
    except OSError as exc:
        raise PortTakenError(port) from exc
    clients: list[socket.socket] = []

    def serve(client: socket.socket) -> None:
        with client:
            join(client)

    def accept() -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = listener.accept()
                clients.append(client)
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        for each in (listener, *clients):
            with suppress(OSError):  # it has ended already
                each.shutdown(socket.SHUT_RDWR)
        listener.close()
