"""``lossguard top --web``: bind to this host alone, print the link, serve until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lossguard.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from lossguard.tui.web.gate import Gate

_END_S = 8.0
"""Browsers and apps get this long at the end; more than it takes to kill an app."""


def serve(
    run: str,
    ensure_agent: Callable[[], object],
    *,
    port: int = 0,
    operator: bool = False,
    as_json: bool = False,
) -> None:
    """Serve the dashboard on 127.0.0.1 until SIGINT, SIGTERM or SIGHUP; SIGQUIT: a new link.

    ``ensure_agent`` is called for every tab: an agent with nothing to watch ends by itself. Without
    a ``port`` a free one is taken. Only an ``operator`` may act on runs. Raises ConfigError without
    the extra, UsageError where the port is taken.
    """
    if find_spec("textual_serve") is None:
        raise ConfigError(
            "the dashboard in a browser needs textual-serve: pip install 'lossguard[web]'"
        )
    with _listen(port) as listener:
        asyncio.run(_serve(listener, run, ensure_agent, operator, as_json))


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise UsageError(
            f"port {port} cannot be taken ({error.strerror}); without --port a free one is"
        ) from error
    return listener


async def _serve(
    listener: socket.socket,
    run: str,
    ensure_agent: Callable[[], object],
    operator: bool,
    as_json: bool,
) -> None:
    from aiohttp import web

    from lossguard.tui.web.front import application
    from lossguard.tui.web.gate import Gate
    from lossguard.tui.web.terminal import Terminals

    gate = Gate(listener.getsockname()[1])
    announce = partial(_announce, gate, operator, as_json)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, over.set)
    loop.add_signal_handler(signal.SIGQUIT, announce)
    runner = web.AppRunner(
        application(gate, Terminals(run, ensure_agent, operator=operator)),
        # Requests have the token and the cookie in them.
        access_log=None,
        logger=_silent(),
        shutdown_timeout=_END_S,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        announce()
        if not as_json:
            _explain(listener.getsockname()[1])
        await over.wait()
    finally:
        await runner.cleanup()


def _announce(gate: Gate, operator: bool, as_json: bool) -> None:
    link = gate.new_link()
    if as_json:
        line = json.dumps({"url": link, "operator": operator})
    else:
        line = f"{link}  ({'may act on runs' if operator else 'read-only'}, opens once)"
    print(line, flush=True)  # noqa: T201


def _explain(port: int) -> None:
    sys.stderr.write(
        "Ctrl-\\ prints a new link, Ctrl-C ends. From another machine: "
        f"ssh -L {port}:127.0.0.1:{port} THIS_HOST, then open the link there.\n"
    )


def _silent() -> logging.Logger:
    logger = logging.getLogger("lossguard.tui.web.silent")
    logger.disabled = True
    return logger
