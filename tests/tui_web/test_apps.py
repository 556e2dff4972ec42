"""Apps begin with their tabs, and none is left behind."""

from __future__ import annotations

import os
import signal

import pytest

from lossguard.errors import AgentUnreachable
from lossguard.home import Home
from lossguard.tui.web import app_process
from lossguard.tui.web.app_process import AppProcess
from tests.support.probe import FakeProbe
from tests.support.waiting import eventually
from tests.tui_web.web_server import WebServer


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
async def test_no_app_outlives_the_server(web_home: Home, probe: FakeProbe, by: int) -> None:
    """By Ctrl-C, and by ``kill -9``."""
    from tests.tui_web.visitor import Visitor

    server = WebServer(web_home)
    visitor = Visitor(server)
    try:
        await visitor.enter()
        async with visitor.socket() as socket:
            await socket.receive()
            apps = server.apps()
            assert len(apps) == 1
            assert server.end(by) == (0 if by == signal.SIGINT else -signal.SIGKILL)
            eventually(lambda: not any(app.is_running() for app in apps))
    finally:
        await visitor.close()
        server.end(signal.SIGKILL)


async def test_every_tab_looks_for_the_agent_first(
    web_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have ended since; where none can be had, the app opens all the same."""
    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer

    from lossguard.tui.web.terminal import Terminals

    monkeypatch.setenv("LOSSGUARD_HOME", str(web_home.state.parent))
    looked: list[str] = []

    def nowhere() -> None:
        looked.append("looked")
        raise AgentUnreachable("nowhere")

    app = web.Application()
    app.router.add_get("/", Terminals("", nowhere, operator=False).serve)
    async with TestClient(TestServer(app)) as client, client.ws_connect("/") as opened:
        assert await opened.receive_bytes()
    assert looked == ["looked"]


async def test_an_app_that_hangs_is_killed(web_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped here, so it cannot end by itself."""
    monkeypatch.setenv("LOSSGUARD_HOME", str(web_home.state.parent))
    monkeypatch.setattr(app_process, "GRACE_S", 0.1)
    app = await AppProcess.start("", operator=False, width=80, height=24)
    frames = app.frames()
    await frames.__anext__()
    await frames.aclose()
    os.kill(app.pid, signal.SIGSTOP)
    await app.end()
    with pytest.raises(ProcessLookupError):
        os.kill(app.pid, 0)
