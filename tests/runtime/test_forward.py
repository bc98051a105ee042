"""A forwarded port, with real connections."""

from __future__ import annotations

import socket

import pytest

from astro_cli.runtime.engine import PortTakenError
from astro_cli.runtime.forward import forwarded
from tests.free_port import free_port


def echo(client: socket.socket) -> None:
    while data := client.recv(1024):
        client.sendall(data)


def test_every_connection_is_joined_and_cut_off_at_the_end():
    port = free_port()
    with forwarded(port, echo):
        clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(2)]
        for number, client in enumerate(clients):
            client.sendall(f"hello {number}".encode())
        assert [client.recv(100) for client in clients] == [b"hello 0", b"hello 1"]
    for client in clients:
        assert client.recv(100) == b""
        client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_port_that_somebody_has_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortTakenError) as raised, forwarded(port, echo):
            pass
    assert raised.value.port == port
