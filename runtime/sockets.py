"""Ports: those that several processes share, each with its own socket, and those that are free."""

import contextlib
import ctypes
import random
import socket
import struct
import sys

from runtime import Problem

_SO_ATTACH_FILTER = 26  # Linux; the module socket does not name it
_NEVER_A_CLIENTS = range(20_000, 32_000)


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket that other processes of ours may bind too; it holds the port, and listens not yet.

    Connections to the port are dealt out by the kernel among the sockets that listen on it.
    Raises `Problem` naming host and port where that cannot be.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named: of an unnamed one asyncio would not know to switch Nagle's delay off.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        reason = error.strerror or str(error)
        raise Problem(f"cannot listen on {host} port {port}: {reason}") from error
    return bound


def turn_away(listening: socket.socket) -> None:
    """Let no new connection begin at `listening`; those that have begun still come in.

    Closing a socket resets what waits to be accepted. So first every packet that opens a connection is
    dropped: its sender tries again after a second, when the socket is closed and the kernel asks
    another on the port. Only Linux can; elsewhere this does nothing.
    """
    if sys.platform != "linux":
        return
    # Classic BPF over the TCP header: the flags are its byte 13; SYN without ACK opens a connection.
    program = [
        (0x30, 0, 0, 13),  # load the flags
        (0x54, 0, 0, 0x12),  # keep SYN and ACK
        (0x15, 0, 1, 0x02),  # SYN alone?
        (0x06, 0, 0, 0),  # drop it
        (0x06, 0, 0, 0xFFFFFFFF),  # take it whole
    ]
    steps = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    filtering = struct.pack("HP", len(program), ctypes.addressof(steps))
    listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filtering)


def free_ports(count: int) -> list[int]:
    """Return so many different ports of 127.0.0.1 that nobody holds at this moment.

    They are none of those that Linux and macOS give to clients. While nobody listens on one of
    those, a client that asks for it may be given the same port for its own end: it is then connected
    with itself, reads back what it wrote, and keeps the port from whom it waits for.
    Raises `Problem` where so many are not to be found.
    """
    found: list[int] = []
    # Of the system's chance: a test's seed would have all that run beside it take the same ports.
    for port in random.SystemRandom().sample(_NEVER_A_CLIENTS, len(_NEVER_A_CLIENTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise Problem(f"no {count} free ports between {_NEVER_A_CLIENTS[0]} and {_NEVER_A_CLIENTS[-1]}")
