"""The agent: one process per user that hears every run, judges, orders and shows."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from lossguard.agent.alerting import Orders, start_alerts
from lossguard.agent.audit import AuditLog
from lossguard.agent.gate import Gate
from lossguard.agent.keyring import Keyring
from lossguard.agent.listening import (
    PICTURES_WAITING,
    Listening,
    refusal_to_probe,
    refusal_to_viewer,
)
from lossguard.agent.loop_lag import LoopLag
from lossguard.agent.outlets import OutletOptions, Outlets
from lossguard.agent.peers import LocalDoor
from lossguard.agent.prometheus.figures import Sources
from lossguard.agent.registry import Registry
from lossguard.agent.retention import Retention
from lossguard.agent.settings import AgentSettings
from lossguard.agent.sockets import Router
from lossguard.agent.store import Store
from lossguard.agent.viewers import PICTURE_EVERY_S, Viewers
from lossguard.errors import AgentAlreadyRunning, ConfigError
from lossguard.failpoints import reach
from lossguard.home import Home

if TYPE_CHECKING:
    from lossguard.agent.alerts.notifier import Notifier

log = logging.getLogger(__name__)

IDLE_EXIT_S = 900.0
"""An agent that was started in the background ends after this long without runs or viewers [s]."""


@contextlib.contextmanager
def sole_agent(home: Home) -> Iterator[None]:
    """Hold the locks that make this process the user's one agent, and the one of this state.

    A second ``bind`` would silently take the sockets away from the first, and a database has one
    writer. Raises AgentAlreadyRunning when another process holds a lock.
    """
    with _locked(home.lock_path, str(home.runtime)), _locked(home.state_lock_path, str(home.state)):
        yield


@contextlib.contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be opened ({error.strerror}); is the disk writable, and yours? "
            "LOSSGUARD_HOME names another place"
        ) from error
    try:
        # Somebody may be looking at the lock just now (it takes microseconds): try a few times.
        for attempt in range(10):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 9:
                    pid = os.read(descriptor, 32).decode(errors="replace").strip() or "?"
                    raise AgentAlreadyRunning(
                        f"an agent (pid {pid}) already serves {what}; "
                        "stop it with `lossguard agent --stop`"
                    ) from None
                time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class AgentOptions:
    """What an agent is started with: its settings with what the command line changes, and more."""

    settings: AgentSettings
    idle_exit_s: float | None
    """It ends when there was nothing to watch for so long [s]; not where it serves other hosts, or
    metrics, or pings a health check."""
    outlets: OutletOptions
    policy_text: str
    """As TOML, for runs that bring no settings of their own; empty: the shipped ones."""


def run_agent(home: Home, options: AgentOptions) -> None:
    """Serve until told to stop, or until there was nothing to watch for long enough.

    Raises AgentAlreadyRunning, and ConfigError where the database cannot be used, or other hosts
    not be served safely.
    """
    home.create()
    with sole_agent(home):
        asyncio.run(_serve(home, options))


async def _serve(home: Home, options: AgentOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = Store(home.database_path)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    routers: dict[bytes, Router] = {}
    notifier: Notifier | None = None
    with contextlib.ExitStack() as closing:  # the last that was opened is closed first
        closing.callback(log.info, "agent %d ends", os.getpid())
        closing.callback(store.close)
        closing.callback(context.term)
        closing.callback(_close_all, routers)

        def send(identity: bytes, frame: bytes) -> bool:
            router = routers.get(identity[:1])
            return router is not None and router.send(identity, frame)

        audit = AuditLog(home.audit_path)
        closing.callback(audit.close)
        gate = Gate(store, audit)
        settings = options.settings
        registry = Registry(store, send, options.policy_text, settings.retention.runs)
        retention = Retention(settings.retention, registry, home.state / "incidents")
        desk = Viewers(registry, send, stop.set, gate, lambda: notifier.states if notifier else {})
        for router in _local_routers(context, home, registry, desk):
            routers[router.mark] = router
        ticks = [("auditing", gate.tick), ("forgetting", retention.tick)]
        if settings.listen.tcp:
            listening = Listening(
                context, settings.listen, Keyring(home), registry.take, desk.take, audit
            )
            closing.callback(listening.close)
            for router in (listening.probes, listening.viewers):
                routers[router.mark] = router
            ticks.append(("listening", listening.tick))
        log.info("agent %d serves %s, state in %s", os.getpid(), home.runtime, home.state)
        reach("daemon.started")
        notifier = start_alerts(home, settings, registry, Orders(desk.answer, audit))
        if notifier is not None:
            closing.callback(notifier.close)
            ticks.append(("alerting", notifier.tick))
        sources = Sources(registry, store, routers, LoopLag(PICTURE_EVERY_S))
        outlets = Outlets(options.outlets, sources, notifier)
        closing.callback(outlets.close)
        desk.outlets = outlets.troubles
        ticks.append(("exporting", outlets.tick))
        stays = bool(settings.listen.tcp) or outlets.are_open
        idle_exit_s = None if stays else options.idle_exit_s
        await _tick(stop, store, registry, desk, list(routers.values()), ticks, idle_exit_s)


def _close_all(routers: Mapping[bytes, Router]) -> None:
    for router in routers.values():
        router.close()


def _local_routers(
    context: zmq.Context[zmq.Socket[bytes]], home: Home, registry: Registry, desk: Viewers
) -> Iterator[Router]:
    yield Router(
        context,
        home.probe_endpoint,
        registry.take,
        door=LocalDoor(),
        refusal=refusal_to_probe,
        mark=b"p",
    )
    yield Router(
        context,
        home.viewer_endpoint,
        desk.take,
        door=LocalDoor(),
        refusal=refusal_to_viewer,
        mark=b"v",
        queue=PICTURES_WAITING,
    )
    for path in (home.probe_endpoint, home.viewer_endpoint):
        os.chmod(path.removeprefix("ipc://"), 0o600)


async def _tick(
    stop: asyncio.Event,
    store: Store,
    registry: Registry,
    desk: Viewers,
    routers: list[Router],
    ticks: list[tuple[str, Callable[[], None]]],
    idle_exit_s: float | None,
) -> None:
    busy_s = time.monotonic()
    while not stop.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), PICTURE_EVERY_S)
        now = time.monotonic()
        for router in routers:
            _contained("receiving", router.drain)
        _contained("watching", registry.tick, now)
        _contained("showing", desk.tick, now)
        _contained("remembering", store.tick)
        for what, work in ticks:
            _contained(what, work)
        if registry.active or desk.has_alerts_waiting:
            busy_s = now
        idle_s = now - max(busy_s, desk.heard_s)
        if idle_exit_s is not None and idle_s > idle_exit_s:
            log.info("nothing to watch for %.0f s", idle_s)
            break
    registry.save()


_said: set[str] = set()


def _contained(what: str, work: Callable[..., object], *arguments: object) -> None:
    """Whatever goes wrong, the agent goes on; each kind of trouble is said once."""
    try:
        work(*arguments)
    except Exception as error:
        kind = f"{what}: {type(error).__name__}"
        if kind not in _said:
            _said.add(kind)
            log.exception("%s failed; the agent goes on", what)
