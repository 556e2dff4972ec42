"""A network between a probe and its agent that loses, repeats, delays, reorders, or is cut."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import zmq

from lossguard.home import Home
from tests.support.in_thread import InThread

Way = Literal["to agent", "to probe"]
Weather = Callable[[Way, list[bytes], random.Random], list[float]]
"""After how long each copy of a message arrives [s]; none: it is lost."""


def fair(way: Way, frames: list[bytes], dice: random.Random) -> list[float]:
    """Every message, once, at once."""
    return [0.0]


@dataclass(order=True)
class _Late:
    due_s: float
    number: int
    way: Way = field(compare=False)
    identity: bytes = field(compare=False)
    frames: list[bytes] = field(compare=False)


class Proxy(InThread):
    """Binds where the probes of ``front`` connect, and connects to the agent of ``back``.

    ``weather`` may be changed at any time. ``carried`` counts messages, ``lost`` those that the
    weather took.
    """

    def __init__(self, front: Home, back: Home, weather: Weather = fair, seed: int = 0) -> None:
        super().__init__()
        self.weather = weather
        self.carried = 0
        self.lost = 0
        self._front, self._back = front, back
        self._dice = random.Random(seed)
        self._late: list[_Late] = []
        self._count = itertools.count()

    def _work(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        router = context.socket(zmq.ROUTER)
        router.set(zmq.LINGER, 0)
        router.bind(self._front.probe_endpoint)
        self._ready.set()
        dealers: dict[bytes, zmq.Socket[bytes]] = {}
        try:
            while not self._stop.is_set():
                self._take(router, dealers, context)
                self._deliver(router, dealers)
        finally:
            for socket in (router, *dealers.values()):
                socket.close(linger=0)
            context.term()

    def _take(
        self,
        router: zmq.Socket[bytes],
        dealers: dict[bytes, zmq.Socket[bytes]],
        context: zmq.Context[zmq.Socket[bytes]],
    ) -> None:
        router.poll(2)
        while router.poll(0):
            identity, *frames = router.recv_multipart()
            if identity not in dealers:
                dealers[identity] = context.socket(zmq.DEALER)
                dealers[identity].set(zmq.LINGER, 0)
                dealers[identity].connect(self._back.probe_endpoint)
            self._throw("to agent", identity, frames)
        for identity, dealer in dealers.items():
            while dealer.poll(0):
                self._throw("to probe", identity, dealer.recv_multipart())

    def _throw(self, way: Way, identity: bytes, frames: list[bytes]) -> None:
        delays = self.weather(way, frames, self._dice)
        self.carried += 1
        self.lost += not delays
        for delay in delays:
            late = _Late(time.monotonic() + delay, next(self._count), way, identity, frames)
            heapq.heappush(self._late, late)

    def _deliver(self, router: zmq.Socket[bytes], dealers: dict[bytes, zmq.Socket[bytes]]) -> None:
        while self._late and self._late[0].due_s <= time.monotonic():
            late = heapq.heappop(self._late)
            try:
                if late.way == "to agent":
                    dealers[late.identity].send_multipart(late.frames, zmq.NOBLOCK)
                else:
                    router.send_multipart([late.identity, *late.frames], zmq.NOBLOCK)
            except zmq.Again:
                self.lost += 1
