"""Ports that several processes share: each binds its own socket, the kernel deals connections out."""

import socket

from runtime import Problem


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
