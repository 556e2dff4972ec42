"""How a viewer talks to the agent: one DEALER socket, requests with answers, and pictures."""

from __future__ import annotations

import time
from types import TracebackType

import zmq

from lossguard.agent import feed
from lossguard.connection import Connection
from lossguard.errors import AgentUnreachable, LossguardError
from lossguard.home import Home, find_home


class Client:
    """A connection to this user's agent, or to the one that ``LOSSGUARD_AGENT`` names. Not
    thread-safe: one thread owns it.

    Connecting never blocks; an agent that is not there shows when a request goes unanswered. The
    socket finds a restarted agent by itself. Raises ConfigError where the agent is of another host
    and the key to it cannot be used.
    """

    def __init__(self, home: Home | None = None) -> None:
        self.home = home or find_home()
        self._context = zmq.Context()
        options = {
            zmq.LINGER: 200,
            zmq.RCVHWM: 16,  # pictures are large
            zmq.IMMEDIATE: 1,
            zmq.RECONNECT_IVL: 100,
            zmq.RECONNECT_IVL_MAX: 2000,
        }
        try:
            self._connection = Connection(self._context, self.home, "viewers", options)
        except BaseException:
            self._context.term()
            raise

    @property
    def _socket(self) -> zmq.Socket[bytes]:
        return self._connection.socket

    @property
    def trouble(self) -> str:
        """Why an agent of another host is not reached; empty where it is, or nothing is known."""
        return self._connection.trouble

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
        self._connection.close(linger=200)
        self._context.term()

    def send(self, message: feed.FeedMessage) -> bool:
        """Hand a message over without waiting; False when no agent is connected."""
        self._connection.look()
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
            self._connection.look()
            return None
        try:
            message = feed.decode_from_agent(self._socket.recv())
            if isinstance(message, feed.Pong) and message.protocol != feed.FEED_PROTOCOL:
                raise ValueError(f"feed {message.protocol}, and this is {feed.FEED_PROTOCOL}")
            return message
        except ValueError as error:
            raise LossguardError(
                f"the agent's answer makes no sense ({error}): is it another version? "
                "`lossguard agent --stop` ends it, the next command starts one"
            ) from error

    def request(self, message: feed.FeedMessage, timeout_s: float = 5.0) -> feed.FromAgent:
        """Send and wait for the answer, passing over pictures.

        Raises AgentUnreachable after ``timeout_s`` [s], or as soon as the agent has said that it
        does not know our key.
        """
        deadline = time.monotonic() + timeout_s
        sent = False
        while (left := deadline - time.monotonic()) > 0 and not self._connection.is_refused:
            if not sent:
                sent = self.send(message)
                if not sent:
                    self._socket.poll(20, zmq.POLLOUT)
                    continue
            answer = self.receive(left)
            if answer is not None and not isinstance(answer, feed.Picture):
                return answer
        if self.home.remote:
            why = self.trouble or f"the agent at {self.home.viewer_endpoint} does not answer"
            raise AgentUnreachable(why)
        raise AgentUnreachable(
            f"no agent answered within {timeout_s:g} s at {self.home.viewer_endpoint}; "
            "start one with `lossguard agent`, or a run with `lossguard run`"
        )
