"""Ports of this host that nobody listens at."""

from __future__ import annotations

import socket


def free_port() -> int:
    """One of which the next is free as well."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
