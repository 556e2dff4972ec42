"""The probe's own thread: one DEALER socket, sending what was measured, hearing what is ordered.

The training thread never touches the socket and never waits for this thread.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

import zmq

from lossguard.connection import Connection
from lossguard.errors import ConfigError
from lossguard.failpoints import reach
from lossguard.home import Home
from lossguard.probes import wire
from lossguard.probes.absence import Absence
from lossguard.probes.flight_recorder import collectives
from lossguard.probes.graph_capture import leave_captures_alone
from lossguard.probes.launch import agent_is_running, start_agent
from lossguard.probes.outbox import Outbox, Parcel
from lossguard.probes.whereabouts import Place, all_stacks

log = logging.getLogger("lossguard")

_BUSY_POLL_MS = 10
_IDLE_POLL_MS = 50
_HEARTBEAT_S = 1.0
_KNOCK_S = 0.1
_SILENCE_S = 3.0
"""Without a word from the agent for this long, it counts as gone [s]."""
_RESTART_S = 5.0
_MAX_ORDERS = 1024
_FAREWELL_S = 1.0
_LINGER_S = 1.4
"""From the beginning of the end until what an agent that is behind has not taken is dropped [s]."""
_TELL_EVERY_S = 5.0
_FUSE_STEPS = 64
"""So many vetoes in a row by bounds alone, and the bounds are lifted for a while."""
_FUSE_PAUSE_STEPS = 256

Socket = zmq.Socket[bytes]


class Link:
    """Owns the socket and the thread.

    ``limits`` is the newest bound and ``orders`` the commands to carry out; the loop looks at
    both at its step boundaries. ``step`` is written by the loop, for the heartbeat. ``often`` is
    called many times a second, in the link's thread, and must not raise.
    """

    def __init__(
        self,
        home: Home,
        hello: wire.Hello,
        outbox: Outbox,
        *,
        start_agents: bool = True,
        often: Callable[[], None] = lambda: None,
        stands: Callable[[], tuple[int, Place]] = lambda: (0, Place("", "")),
        holds: Callable[[], list[wire.Held]] = list,
        keep: Callable[[wire.Keep], None] = lambda order: None,
    ) -> None:
        self._home = home
        self._stands = stands
        self._holds = holds
        self._keep = keep
        self._hello = hello
        self._outbox = outbox
        self._start_agents = start_agents and not home.remote
        self._often = often
        self.step = 0
        self.limits: wire.Limits | None = None
        self.orders: deque[wire.Command] = deque(maxlen=_MAX_ORDERS)
        self._dumped: deque[str] = deque(maxlen=_MAX_ORDERS)
        self._fuse_until = 0
        self._vetoes_told = 0
        self._told_s = float("-inf")
        self._layouts_sent: set[int] = set()
        self._heard_s = 0.0
        self._connected = False
        self._absence = Absence(acts=hello.policy == "guard")
        self._refused = False
        self._heard_nonsense = False
        self._said_trouble = False
        self._tried_s = float("-inf")
        self._parting_s = float("-inf")
        self._stop = threading.Event()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="lossguard-link", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 1.8) -> bool:
        """Send what is left, for at most ``timeout_s`` [s], and end the thread; whether it has.
        Idempotent.

        Does nothing in a forked child: the thread is not there.
        """
        if os.getpid() != self._pid:
            return False
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """As ``close``, without waiting for it: only the end of the process does."""
        _abandoned.add(self)
        self._stop.set()

    def before_leaving(self, code: int) -> None:
        """``os._exit(code)`` is next: send what is left, say goodbye. At most 1 s."""
        if self._outbox.farewell is None:
            self._outbox.farewell = wire.Bye(
                run=self._hello.run,
                rank=self._hello.rank,
                step=self.step,
                reason="exception" if code else "finished",
                error=f"exit code {code}" if code else "",
            )
        self.close(timeout_s=1.0)

    # --- all below runs in the link's own thread -------------------------------------------

    def _run(self) -> None:
        try:
            leave_captures_alone()
            context = zmq.Context()
            try:
                connection = self._connect(context)
                try:
                    self._loop(connection)
                finally:
                    left_s = max(0.3, self._parting_s + _LINGER_S - time.monotonic())
                    connection.close(linger=int(left_s * 1000))
            finally:
                context.term()
        except ConfigError as error:
            log.error("%s; training goes on, unwatched", error)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            log.error("the link to the agent failed (%s); training goes on, unwatched", what)

    def _connect(self, context: zmq.Context[Socket]) -> Connection:
        options = {
            zmq.LINGER: 0,
            zmq.SNDHWM: 1000,
            zmq.RCVHWM: 1000,
            zmq.IMMEDIATE: 1,
            zmq.MAXMSGSIZE: wire.MAX_FRAME_BYTES,
            zmq.RECONNECT_IVL: 100,
            zmq.RECONNECT_IVL_MAX: 2000,
        }
        return Connection(context, self._home, "probes", options)

    def _loop(self, connection: Connection) -> None:
        beat_s = float("-inf")
        while not self._stop.is_set():
            reach("link.loop")
            now = time.monotonic()
            self._look_at(connection)
            socket = connection.socket
            pause_s = _HEARTBEAT_S if self._connected else _KNOCK_S
            if now - beat_s >= pause_s and not connection.is_refused:
                beat_s = now
                self._keep_in_touch(socket, now)
            self._often()
            moved = self._outbox.collect(wait=False)
            self._watch_vetoes(now)
            moved |= self._send_waiting(socket)
            if socket.poll(_BUSY_POLL_MS if moved else _IDLE_POLL_MS):
                self._hear(connection)
        self._part(connection)

    def _look_at(self, connection: Connection) -> None:
        """Why no agent of another host is reached is said once, until one is."""
        connection.look()
        if connection.trouble and not self._said_trouble:
            self._said_trouble = True
            log.warning("%s; training goes on, unwatched", connection.trouble)

    def _watch_vetoes(self, now: float) -> None:
        """Every skip is loud; and bounds that nothing passes any more are wrong bounds."""
        outbox = self._outbox
        if outbox.num_vetoed > self._vetoes_told and now - self._told_s >= _TELL_EVERY_S:
            self._vetoes_told, self._told_s = outbox.num_vetoed, now
            log.warning("%d updates skipped so far, the last at step %d",
                        outbox.num_vetoed, outbox.last_vetoed_step)  # fmt: skip
        if outbox.over_bounds_in_a_row >= _FUSE_STEPS:
            outbox.over_bounds_in_a_row = 0
            self.limits = None
            self._fuse_until = self.step + _FUSE_PAUSE_STEPS
            what = (
                f"{_FUSE_STEPS} updates in a row were over their bounds: the bounds are lifted for "
                f"{_FUSE_PAUSE_STEPS} steps"
            )
            log.warning("%s", what)
            outbox.tell(self.step, "fuse", what)

    def _part(self, connection: Connection) -> None:
        """Last chance for what is still queued, if an agent has ever been there."""
        socket = connection.socket
        self._parting_s = time.monotonic()
        may_come = self._start_agents or (bool(self._home.remote) and not connection.trouble)
        self._outbox.collect(wait=True)
        deadline = time.monotonic() + _FAREWELL_S
        while time.monotonic() < deadline and (self._outbox.words or self._outbox.parcels):
            if not self._connected and not may_come:
                return
            if not self._connected:  # a very short run: nobody has been greeted yet
                self._keep_in_touch(socket, time.monotonic())
            if not self._send_waiting(socket):
                socket.poll(10)
            if socket.poll(0):
                self._hear(connection)
        if self._connected and self._outbox.farewell is not None:
            self._try_send(socket, self._outbox.farewell)

    def _keep_in_touch(self, socket: Socket, now: float) -> None:
        if self._refused:
            return
        if self._connected and now - self._heard_s > _SILENCE_S:
            self._connected = False
            self.limits = None  # they follow the run no more: only what is not finite is vetoed
            self._absence.begins(self._heard_s, now)
        if not self._connected and self._start_agents and now - self._tried_s > _RESTART_S:
            self._tried_s = now
            if not agent_is_running(self._home):
                start_agent(self._home)
        if not self._connected:
            if not self._said_trouble:
                self._absence.goes_on(now)
            self._try_send(socket, self._hello)
            return
        moves, place = self._stands()
        self._try_send(
            socket,
            wire.Heartbeat(
                run=self._hello.run,
                rank=self._hello.rank,
                step=self.step,
                applied=self._outbox.applied,
                dropped=self._outbox.dropped,
                time_s=now,
                moves=moves,
                phase=place.phase,
                at=place.at,
                snapshots=self._holds(),
            ),
        )

    def _try_send(self, socket: Socket, *messages: wire.Message) -> bool:
        try:
            for message in messages:
                socket.send(wire.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _send_waiting(self, socket: Socket) -> bool:
        """Send words, then steps; False when nothing could be sent."""
        outbox = self._outbox
        if self._refused:
            outbox.parcels.clear()
            outbox.words.clear()
            return False
        if not self._connected:
            return False
        sent = False
        while outbox.words and self._try_send(socket, outbox.words[0]):
            outbox.words.popleft()
            sent = True
        for _ in range(256):
            if outbox.words or not outbox.parcels or not self._send_step(socket, outbox.parcels[0]):
                break
            outbox.parcels.popleft()
            sent = True
        return sent

    def _send_step(self, socket: Socket, parcel: Parcel) -> bool:
        reach("link.send")
        if parcel.layout.layout not in self._layouts_sent:
            if not self._try_send(socket, parcel.layout):
                return False
            self._layouts_sent.add(parcel.layout.layout)
        try:
            socket.send_multipart([wire.encode(parcel.header), parcel.payload], zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _hear(self, connection: Connection) -> None:
        for _ in range(64):
            try:
                frame = connection.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = wire.decode_from_agent(frame)
            except Exception as error:  # a ValueError, or a RecursionError of what is too deep
                if not self._heard_nonsense:
                    self._heard_nonsense = True
                    log.warning("a message from the agent makes no sense (%s); ignored", error)
                continue
            reach("link.hear")
            if message.run == self._hello.run:
                self._obey(connection, message)

    def _obey(self, connection: Connection, message: wire.FromAgent) -> None:
        if isinstance(message, wire.Welcome) and message.protocol != wire.PROTOCOL:
            why = (
                f"it speaks protocol {message.protocol}, this probe {wire.PROTOCOL}: install the "
                "same lossguard on both sides, or restart the agent"
            )
            message = wire.Refused(run=message.run, why=why)
        if isinstance(message, wire.Refused):
            self._take_refusal(connection, message)
            return
        self._heard_s = time.monotonic()
        if not self._connected:
            self._connected = True
            self._said_trouble = False
            self._layouts_sent.clear()
            if words := self._absence.ends(self._heard_s):
                self._outbox.tell(self.step, "unwatched", words)
        if isinstance(message, wire.Limits):
            self.limits = message if self.step >= self._fuse_until else None
        elif isinstance(message, wire.Command) and message.action == "dump_stacks":
            self._dump_stacks(message)
        elif isinstance(message, wire.Command):
            self.orders.append(message)
        elif isinstance(message, wire.Keep):
            self._keep(message)
        elif isinstance(message, wire.Resend):
            self._layouts_sent.clear()
            self._try_send(connection.socket, self._hello)

    def _take_refusal(self, connection: Connection, message: wire.Refused) -> None:
        self._refused = not message.ask_again
        self._connected = False
        self.limits = None
        if message.ask_again:
            connection.refused(message.why)
        if not self._said_trouble:
            self._said_trouble = True
            log.error("the agent refused this run: %s; training goes on, unwatched", message.why)

    def _dump_stacks(self, order: wire.Command) -> None:
        """At once and from here: the loop may stand still for good. The same id, only once."""
        if order.command in self._dumped:
            return
        self._dumped.append(order.command)
        result: dict[str, float | int | str] = {"stacks": all_stacks()}
        if recorded := collectives():
            result["flight_recorder"] = recorded
        answer = wire.Ack(
            run=order.run,
            rank=self._hello.rank,
            command=order.command,
            status="done",
            step=self.step,
            result=result,
        )
        self._outbox.say(answer)


_abandoned: weakref.WeakSet[Link] = weakref.WeakSet()


def _see_off() -> None:
    """What was abandoned a moment ago still has its goodbye to say. At most 1.8 s."""
    for link in list(_abandoned):
        link.close()


atexit.register(_see_off)
