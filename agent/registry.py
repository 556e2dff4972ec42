"""All runs of one agent, and the messages of their probes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

import msgspec

from lossguard.agent.claims import Claims
from lossguard.agent.incidents import Incident
from lossguard.agent.intake import check
from lossguard.agent.live import LiveRun
from lossguard.agent.peers import OWNER, Peer
from lossguard.agent.retention_settings import KEPT_RUNS
from lossguard.agent.store import Store
from lossguard.errors import LossguardError
from lossguard.failpoints import reach
from lossguard.probes import wire

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 1.0
_MAX_ACTIVE = 1000


class Registry:
    """Routes what probes say to their runs. ``policy_text`` is the policy, as TOML, of those that
    bring no settings of their own; whether it acts on them is still theirs to say."""

    def __init__(
        self,
        store: Store,
        send: Callable[[bytes, bytes], bool],
        policy_text: str = "",
        kept_runs: int = KEPT_RUNS,
    ) -> None:
        self.store = store
        self._kept_runs = kept_runs
        self._send_frame = send
        self._asked: dict[bytes, float] = {}
        self._failed: set[str] = set()
        self._claims = Claims()
        self._policy_text = policy_text
        self.runs: dict[str, LiveRun] = {}
        self._hear: Callable[[LiveRun, Incident], None] | None = None
        store.keep_newest(kept_runs)
        for hello, state, saved in reversed(store.runs(kept_runs)):
            self._restore(hello, state, saved)
        store.when_begun_anew(self._write_again)

    def _write_again(self) -> None:
        for live in self.runs.values():
            self._contained(live, lambda live: live.write_again())

    def _restore(self, hello: wire.Hello, state: str, saved: dict[str, object] | None) -> None:
        try:
            live = LiveRun(hello, self.store, self._send)
            live.restore(state, saved, time.monotonic())
        except Exception:
            log.exception("run %s cannot be taken up from the database", hello.run)
            return
        self.runs[hello.run] = live

    def _send(self, identity: bytes, message: wire.Message) -> bool:
        return bool(identity) and self._send_frame(identity, wire.encode(message))

    def take(self, identity: bytes, frames: list[bytes], peer: Peer = OWNER) -> None:
        """One message of a probe. Raises ValueError on one that makes no sense, and Refused where
        another key speaks for that rank."""
        try:
            message = wire.decode_from_probe(frames[0])
            check(message, len(frames))
        except ValueError:
            if (other := wire.protocol_of(frames[0])) is None or other[1] == wire.PROTOCOL:
                raise
            self._refuse_protocol(identity, *other)
            return
        now = time.monotonic()
        if self._claims.allow(message, peer, self.runs.get(message.run)):
            self._route(identity, message, frames, peer, now)
        else:
            self._ask_who(identity, message.run, now)

    def _route(
        self,
        identity: bytes,
        message: wire.FromProbe,
        frames: list[bytes],
        peer: Peer,
        now: float,
    ) -> None:
        if isinstance(message, wire.Step):
            run = self.runs.get(message.run)
            if run is None or not run.take_step(message, frames[1], now):
                self._ask_who(identity, message.run, now)
            return
        if isinstance(message, wire.Hello):
            self._greet(identity, message, peer, now)
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

    def _greet(self, identity: bytes, hello: wire.Hello, peer: Peer, now: float) -> None:
        if hello.protocol != wire.PROTOCOL:
            self._refuse_protocol(identity, hello.run, hello.protocol)
            return
        if not hello.policy_text and self._policy_text:
            hello = msgspec.structs.replace(hello, policy_text=self._policy_text)
        try:
            run = self.runs.get(hello.run) or self._begin(hello)
            run.greet(identity, hello, now)
            run.ranks[hello.rank].account = peer.account
        except LossguardError as error:
            self._send(identity, wire.Refused(run=hello.run, why=str(error)))
            return
        self._send(identity, wire.Welcome(run=hello.run, agent_pid=os.getpid()))

    def _refuse_protocol(self, identity: bytes, run: str, protocol: int) -> None:
        why = (
            f"the probe speaks protocol {protocol}, this agent {wire.PROTOCOL}: "
            "install the same lossguard on both sides, or restart the agent"
        )
        self._send(identity, wire.Refused(run=run, why=why))

    def _begin(self, hello: wire.Hello) -> LiveRun:
        if self.active >= _MAX_ACTIVE:
            raise LossguardError(f"this agent watches {_MAX_ACTIVE} runs already")
        run = self.runs[hello.run] = LiveRun(hello, self.store, self._send)
        if self._hear is not None:
            run.hear = self._hear
        reach("registry.begun")
        log.info("run %s (%s, pid %d, policy %s)",
                 hello.run, hello.name, hello.pid, hello.policy)  # fmt: skip
        self._forget_old()
        return run

    def _ask_who(self, identity: bytes, run: str, now: float) -> None:
        if now - self._asked.get(identity, float("-inf")) >= _ASK_AGAIN_S:
            if len(self._asked) > 10_000:
                self._asked.clear()
            self._asked[identity] = now
            self._send(identity, wire.Resend(run=run))

    def _forget_old(self) -> None:
        ended = [live for live in self.runs.values() if live.is_over]
        ended.sort(key=lambda live: live.hello.started_s)
        for live in ended[: max(0, len(self.runs) - self._kept_runs)]:
            self.forget(live)

    def forget(self, live: LiveRun) -> None:
        """A run that is over goes, with all that was kept of it."""
        del self.runs[live.hello.run]
        live.forget()
        reach("registry.forgot")

    # --- for viewers ----------------------------------------------------------------------

    def newest_first(self) -> list[LiveRun]:
        """All runs that are known."""
        return sorted(self.runs.values(), key=lambda live: -live.hello.started_s)

    def find(self, name: str) -> LiveRun | None:
        """By id, else the newest of that name, else the newest whose id begins so."""
        if name in self.runs:
            return self.runs[name]
        runs = self.newest_first()
        named = (live for live in runs if live.hello.name == name)
        return next(named, None) or next(
            (live for live in runs if live.hello.run.startswith(name)), None
        )

    @property
    def version(self) -> int:
        """Grows with every change of any run."""
        return sum(live.version for live in self.runs.values()) + len(self.runs)

    @property
    def active(self) -> int:
        """Runs that are not over."""
        return sum(not live.is_over for live in self.runs.values())

    def tell(self, hear: Callable[[LiveRun, Incident], None]) -> None:
        """From now on ``hear`` is called with every incident that changes, of any run."""
        self._hear = hear
        for live in self.runs.values():
            live.hear = hear

    # --- by the clock ---------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """A few times a second. What goes wrong in one run does not touch the others."""
        for live in list(self.runs.values()):
            self._contained(live, lambda live: live.tick(now))
        # One at a time, the one that has waited longest: a save takes milliseconds.
        for live in sorted(self.runs.values(), key=lambda live: live.saved_s):
            if self._contained(live, lambda live: live.save(now)):
                break

    def save(self) -> None:
        """Keep all that goes on for the next agent."""
        for live in self.runs.values():
            if not live.is_over:
                self._contained(live, lambda live: live.save(time.monotonic(), force=True))

    def _contained(self, live: LiveRun, work: Callable[[LiveRun], object]) -> bool:
        try:
            return bool(work(live))
        except Exception:
            if live.hello.run not in self._failed:
                self._failed.add(live.hello.run)
                log.exception("run %s failed; the others go on", live.hello.run)
            return False
