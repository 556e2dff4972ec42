"""The agent: one process per user that hears every run, judges, orders and shows."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator

import zmq

from lossguard.agent.registry import Registry
from lossguard.agent.sockets import Router
from lossguard.agent.store import Store
from lossguard.agent.viewers import PICTURE_EVERY_S, Viewers
from lossguard.errors import AgentAlreadyRunning
from lossguard.home import Home

log = logging.getLogger(__name__)

IDLE_EXIT_S = 900.0
"""An agent that was started in the background ends after this long without runs or viewers [s]."""
_PICTURES_WAITING = 8
"""Pictures are large: no more wait for a viewer that does not read."""


@contextlib.contextmanager
def sole_agent(home: Home) -> Iterator[None]:
    """Hold the lock that makes this process the user's one agent.

    A second ``bind`` would silently take the sockets away from the first. Raises
    AgentAlreadyRunning when another process holds the lock.
    """
    descriptor = os.open(home.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
                        f"an agent (pid {pid}) already serves {home.runtime}; "
                        "stop it with `lossguard agent --stop`"
                    ) from None
                time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def run_agent(home: Home, *, idle_exit_s: float | None = None) -> None:
    """Serve until told to stop, or until there was nothing to watch for ``idle_exit_s`` [s].

    Raises AgentAlreadyRunning, and ConfigError where the database cannot be used.
    """
    home.create()
    with sole_agent(home):
        asyncio.run(_serve(home, idle_exit_s))


async def _serve(home: Home, idle_exit_s: float | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = Store(home.database_path)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    probes: Router | None = None
    viewers: Router | None = None
    try:

        def to_probe(identity: bytes, frame: bytes) -> bool:
            return probes is not None and probes.send(identity, frame)

        def to_viewer(identity: bytes, frame: bytes) -> bool:
            return viewers is not None and viewers.send(identity, frame)

        registry = Registry(store, to_probe)
        desk = Viewers(registry, to_viewer, stop.set)
        probes = Router(context, home.probe_endpoint, registry.take)
        viewers = Router(context, home.viewer_endpoint, desk.take, queue=_PICTURES_WAITING)
        log.info("agent %d serves %s, state in %s", os.getpid(), home.runtime, home.state)
        await _tick(stop, store, registry, desk, [probes, viewers], idle_exit_s)
    finally:
        for router in (probes, viewers):
            if router is not None:
                router.close()
        context.term()
        store.close()
        log.info("agent %d ends", os.getpid())


async def _tick(
    stop: asyncio.Event,
    store: Store,
    registry: Registry,
    desk: Viewers,
    routers: list[Router],
    idle_exit_s: float | None,
) -> None:
    busy_s = time.monotonic()
    while not stop.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), PICTURE_EVERY_S)
        now = time.monotonic()
        for router in routers:
            router.drain()
        _contained("watching", registry.tick, now)
        _contained("showing", desk.tick, now)
        _contained("remembering", store.tick)
        if registry.active:
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
