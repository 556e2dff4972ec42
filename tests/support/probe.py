"""A probe by hand: a real socket that says and hears what a training process would."""

from __future__ import annotations

import os
import socket
import time
from typing import Any, Literal, TypeVar

import numpy as np
import zmq

from lossguard.connection import prove
from lossguard.home import Home
from lossguard.key_files import read_key_file
from lossguard.probes import wire
from tests.support.waiting import PATIENCE_S

_STARTED_S = time.time()

M = TypeVar("M", bound=wire.Message)


def hello_of(run: str = "run-a", **changes: Any) -> wire.Hello:
    """A hello as a probe would say it, of this very process."""
    known: dict[str, Any] = {
        "protocol": wire.PROTOCOL,
        "name": "tiny",
        "rank": 0,
        "world_size": 1,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started_s": _STARTED_S,
        "policy": "guard",
        "script": ["train.py"],
        "versions": {"lossguard": "0"},
    }
    return wire.Hello(run=run, **(known | changes))


class FakeProbe:
    """``heard`` holds every message so far; ``step`` is that of the last step sent."""

    def __init__(self, home: Home, hello: wire.Hello, names: tuple[str, ...] = ("loss",)) -> None:
        self.hello = hello
        self.names = names
        self.heard: list[wire.FromAgent] = []
        self.step = 0
        self.sequence = 0
        self._taken = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDTIMEO, int(PATIENCE_S * 1000))
        self._socket.set(zmq.RECONNECT_IVL, 20)
        if home.key_file is not None:
            prove(self._socket, read_key_file(home.key_file))
        self._socket.connect(home.probe_endpoint)

    def __enter__(self) -> FakeProbe:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._context.term()

    # --- saying ---------------------------------------------------------------------------

    def raw(self, *frames: bytes) -> None:
        """Send whatever."""
        self._socket.send_multipart(list(frames))

    def say(self, message: wire.Message) -> None:
        """Send one message."""
        self.raw(wire.encode(message))

    def join(self) -> FakeProbe:
        """Say hello, wait for the welcome, name the values."""
        self.say(self.hello)
        self.await_message(wire.Welcome)
        self.lay_out()
        return self

    def lay_out(self, layout: int = 0) -> None:
        """Name the values."""
        self.say(
            wire.Layout(
                run=self.hello.run, rank=self.hello.rank, layout=layout, names=list(self.names)
            )
        )

    def send_step(self, *values: float, lost: int = 0, payload: bytes | None = None) -> None:
        """The next step; ``lost`` are measured before it and never sent."""
        self.step += 1
        self.sequence += 1 + lost
        header = wire.Step(
            run=self.hello.run,
            rank=self.hello.rank,
            step=self.step,
            applied=self.step,
            layout=0,
            sequence=self.sequence,
            time_s=0.01 * self.step,
        )
        buffer = np.array(values, dtype="<f4").tobytes() if payload is None else payload
        self.raw(wire.encode(header), buffer)

    def beat(self, dropped: int = 0) -> None:
        """A sign of life."""
        self.say(
            wire.Heartbeat(
                run=self.hello.run,
                rank=self.hello.rank,
                step=self.step,
                applied=self.step,
                dropped=dropped,
                time_s=0.0,
            )
        )

    def ack(
        self, command: wire.Command, status: Literal["done", "failed"] = "done", **result: Any
    ) -> None:
        """Answer a command."""
        self.say(
            wire.Ack(
                run=self.hello.run,
                rank=self.hello.rank,
                command=command.command,
                status=status,
                step=self.step,
                result=result,
            )
        )

    def bye(
        self, reason: Literal["finished", "exception", "closed", "stopped"] = "finished"
    ) -> None:
        """End in an orderly way."""
        self.say(wire.Bye(run=self.hello.run, rank=self.hello.rank, step=self.step, reason=reason))

    # --- hearing --------------------------------------------------------------------------

    def hear(self, patience_s: float = 0.0) -> bool:
        """Take in one message; False when there is none in time."""
        if not self._socket.poll(int(patience_s * 1000)):
            return False
        self.heard.append(wire.decode_from_agent(self._socket.recv()))
        return True

    def await_message(self, kind: type[M], patience_s: float = PATIENCE_S) -> M:
        """The next message of this kind that no call has returned yet; others are passed over."""
        deadline = time.monotonic() + patience_s
        while True:
            while self._taken < len(self.heard):
                message = self.heard[self._taken]
                self._taken += 1
                if isinstance(message, kind):
                    return message
            left = deadline - time.monotonic()
            if left <= 0 or not self.hear(left):
                raise AssertionError(f"no {kind.__name__} within {patience_s:g} s")

    def commands(self) -> list[wire.Command]:
        """Every command heard so far."""
        while self.hear():
            pass
        return [message for message in self.heard if isinstance(message, wire.Command)]
