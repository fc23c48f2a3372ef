"""Free ports."""

import socket

import pytest

from runtime import Problem, sockets
from runtime.sockets import free_ports


def test_free_ports_are_different_ones_and_can_be_listened_on() -> None:
    found = free_ports(50)
    assert len(set(found)) == 50
    for port in found:
        socket.create_server(("127.0.0.1", port)).close()


def test_port_that_somebody_holds_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = free_ports(2)
    with socket.socket() as held:
        held.bind(("127.0.0.1", first))
        monkeypatch.setattr(sockets, "_NEVER_A_CLIENTS", [first, second])
        assert free_ports(1) == [second]
        with pytest.raises(Problem, match="no 2 free ports"):
            free_ports(2)
