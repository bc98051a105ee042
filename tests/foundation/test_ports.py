from __future__ import annotations

import os
import socket

from astro_cli.foundation import ports


def listen(address: str = "127.0.0.1") -> tuple[socket.socket, int]:
    server = socket.create_server((address, 0))
    return server, server.getsockname()[1]


def test_a_port_somebody_listens_on_is_not_free():
    server, port = listen()
    with server:
        assert not ports.is_free(port)
    assert ports.is_free(port)


def test_a_port_held_on_all_interfaces_is_not_free():
    server, port = listen("0.0.0.0")
    with server:
        assert not ports.is_free(port)


def test_the_next_free_port_skips_a_taken_one():
    server, port = listen()
    with server:
        found = ports.next_free(port)
        assert found is not None
        assert found > port


def test_the_holder_is_named_with_its_process():
    server, port = listen()
    with server:
        assert f"(process {os.getpid()})" in str(ports.holder(port))


def test_nobody_holds_a_free_port():
    server, port = listen()
    server.close()
    assert ports.holder(port) is None
