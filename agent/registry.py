"""All runs of one agent, and the messages of their probes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from lossguard.agent.feed import RunSummary
from lossguard.agent.live import LiveRun
from lossguard.agent.store import Store
from lossguard.errors import LossguardError
from lossguard.probes import wire

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 1.0
_KEPT_RUNS = 200


class Registry:
    """Routes what probes say to their runs."""

    def __init__(self, store: Store, send: Callable[[bytes, bytes], bool]) -> None:
        self._store = store
        self._send_frame = send
        self._asked: dict[bytes, float] = {}
        self.runs: dict[str, LiveRun] = {}
        for hello, state, saved in reversed(store.runs(_KEPT_RUNS)):
            self._restore(hello, state, saved)

    def _restore(self, hello: wire.Hello, state: str, saved: dict[str, object] | None) -> None:
        try:
            live = LiveRun(hello, self._store, self._send)
            live.restore(state, saved)
        except Exception:
            log.exception("run %s cannot be taken up from the database", hello.run)
            return
        # Without word from it the process may have ended while no agent was there.
        if live.state == "silent":
            live.greet(b"", hello, time.monotonic())
            live.state = "silent"
        self.runs[hello.run] = live

    def _send(self, identity: bytes, message: wire.Message) -> bool:
        return bool(identity) and self._send_frame(identity, wire.encode(message))

    def take(self, identity: bytes, frames: list[bytes]) -> None:
        """One message of a probe. Raises ValueError on one that makes no sense."""
        message = wire.decode_from_probe(frames[0])
        now = time.monotonic()
        if isinstance(message, wire.Step):
            if len(frames) != 2:
                raise ValueError(f"a step has two frames, got {len(frames)}")
            run = self.runs.get(message.run)
            if run is None or not run.take_step(message, frames[1], now):
                self._ask_who(identity, message.run, now)
            return
        if isinstance(message, wire.Hello):
            self._greet(identity, message, now)
            return
        run = self.runs.get(message.run)
        if run is None:
            self._ask_who(identity, message.run, now)
        elif isinstance(message, wire.Heartbeat):
            known = run.heard(message, now) and run.ranks[message.rank].identity == identity
            if known:
                self._send(identity, wire.Welcome(run=message.run, agent_pid=os.getpid()))
            else:
                self._ask_who(identity, message.run, now)
        elif isinstance(message, wire.Layout):
            run.lay_out(message)
        elif isinstance(message, wire.Event):
            run.told(message)
        elif isinstance(message, wire.Ack):
            run.answered(message)
        else:
            run.parted(message)

    def _greet(self, identity: bytes, hello: wire.Hello, now: float) -> None:
        if hello.protocol != wire.PROTOCOL:
            why = (
                f"the probe speaks protocol {hello.protocol}, this agent {wire.PROTOCOL}: "
                "install the same lossguard on both sides, or restart the agent"
            )
            self._send(identity, wire.Refused(run=hello.run, why=why))
            return
        run = self.runs.get(hello.run)
        if run is None:
            try:
                run = LiveRun(hello, self._store, self._send)
            except LossguardError as error:
                self._send(identity, wire.Refused(run=hello.run, why=str(error)))
                return
            self.runs[hello.run] = run
            log.info("run %s (%s, pid %d, policy %s)",
                     hello.run, hello.name, hello.pid, hello.policy)  # fmt: skip
            self._forget_old()
        run.greet(identity, hello, now)
        self._send(identity, wire.Welcome(run=hello.run, agent_pid=os.getpid()))

    def _ask_who(self, identity: bytes, run: str, now: float) -> None:
        if now - self._asked.get(identity, float("-inf")) >= _ASK_AGAIN_S:
            if len(self._asked) > 10_000:
                self._asked.clear()
            self._asked[identity] = now
            self._send(identity, wire.Resend(run=run))

    def _forget_old(self) -> None:
        ended = [r for r in self.runs.values() if r.state not in ("running", "silent")]
        ended.sort(key=lambda live: live.hello.started_s)
        for live in ended[: max(0, len(self.runs) - _KEPT_RUNS)]:
            del self.runs[live.hello.run]

    # --- for viewers ----------------------------------------------------------------------

    def summaries(self) -> list[RunSummary]:
        """Newest first."""
        runs = sorted(self.runs.values(), key=lambda live: -live.hello.started_s)
        return [live.summary() for live in runs]

    def find(self, name: str) -> LiveRun | None:
        """By id, by a prefix of it, or the newest of that name; without a name the newest."""
        newest_first = sorted(self.runs.values(), key=lambda live: -live.hello.started_s)
        if name in self.runs:
            return self.runs[name]
        for live in newest_first:
            if live.hello.name == name or live.hello.run.startswith(name):
                return live
        return None

    @property
    def version(self) -> int:
        """Grows with every change of any run."""
        return sum(live.version for live in self.runs.values()) + len(self.runs)

    @property
    def active(self) -> int:
        """Runs that are not over."""
        return sum(live.state in ("running", "silent") for live in self.runs.values())

    def tick(self, now: float) -> None:
        for live in list(self.runs.values()):
            live.tick(now)
