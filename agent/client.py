"""How a viewer talks to the agent: one DEALER socket, requests with answers, and pictures."""

from __future__ import annotations

import time
from types import TracebackType

import zmq

from lossguard.agent import feed
from lossguard.errors import AgentUnreachable, LossguardError
from lossguard.home import Home, find_home


class Client:
    """A connection to this user's agent. Not thread-safe: one thread owns it.

    Connecting never fails and never blocks; an agent that is not there shows when a request
    goes unanswered. The socket finds a restarted agent by itself.
    """

    def __init__(self, home: Home | None = None) -> None:
        self.home = home or find_home()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 200)
        self._socket.set(zmq.RCVHWM, 16)  # pictures are large
        self._socket.set(zmq.IMMEDIATE, 1)
        self._socket.set(zmq.RECONNECT_IVL, 100)
        self._socket.set(zmq.RECONNECT_IVL_MAX, 2000)
        self._socket.connect(self.home.viewer_endpoint)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()
        self._context.term()

    def send(self, message: feed.FeedMessage) -> bool:
        """Hand a message over without waiting; False when no agent is connected."""
        try:
            self._socket.send(feed.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, timeout_s: float) -> feed.FromAgent | None:
        """The next message, or None after ``timeout_s`` [s] without one.

        Raises LossguardError on one that makes no sense.
        """
        if not self._socket.poll(max(0, int(timeout_s * 1000))):
            return None
        try:
            return feed.decode_from_agent(self._socket.recv())
        except ValueError as error:
            raise LossguardError(
                f"the agent's answer makes no sense ({error}): is it another version? "
                "`lossguard agent --stop` ends it, the next command starts one"
            ) from error

    def request(self, message: feed.FeedMessage, timeout_s: float = 5.0) -> feed.FromAgent:
        """Send and wait for the answer, passing over pictures.

        Raises AgentUnreachable after ``timeout_s`` [s].
        """
        deadline = time.monotonic() + timeout_s
        sent = False
        while (left := deadline - time.monotonic()) > 0:
            if not sent:
                sent = self.send(message)
                if not sent:
                    self._socket.poll(20, zmq.POLLOUT)
                    continue
            answer = self.receive(left)
            if answer is not None and not isinstance(answer, feed.Picture):
                return answer
        raise AgentUnreachable(
            f"no agent answered within {timeout_s:g} s at {self.home.viewer_endpoint}; "
            "start one with `lossguard agent`, or a run with `lossguard run`"
        )
