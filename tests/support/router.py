"""An agent by hand: a socket at its address, that says what the test says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import zmq


@contextmanager
def router_at(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    """Closed again with the block; whatever nobody has taken by then is dropped."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.set(zmq.LINGER, 0)
        router.bind(endpoint)
        yield router
