"""Ports that several processes share: each binds its own socket, the kernel deals connections out."""

import ctypes
import socket
import struct
import sys

from runtime import Problem

_SO_ATTACH_FILTER = 26  # Linux; the module socket does not name it


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket that other processes of ours may bind too; it holds the port, and listens not yet.

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
