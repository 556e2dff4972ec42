"""One agent with one run, a server that may only look and one that may act, and a browser."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lossguard.home import Home, find_home
from tests.support.agents import AgentProcess, answering
from tests.support.probe import FakeProbe, hello_of
from tests.support.streams import healthy_losses
from tests.tui_web.web_server import WebServer

if TYPE_CHECKING:
    from tests.tui_web.chromium import Chromium, Tab
    from tests.tui_web.visitor import Visitor


@pytest.fixture(scope="session")
def extra() -> None:
    """What ``lossguard[web]`` brings."""
    pytest.importorskip("textual_serve", reason="needs the extra: pip install 'lossguard[web]'")


@pytest.fixture(scope="session")
def web_home(extra: None) -> Iterator[Home]:
    """One home for all, whose agent runs."""
    root = Path(tempfile.mkdtemp(prefix="lg-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LOSSGUARD_HOME", str(root))
        home = find_home().create()
        agent = AgentProcess(home)
    try:
        with answering(agent):
            yield home
    finally:
        shutil.rmtree(root)


@pytest.fixture(scope="session")
def probe(web_home: Home) -> Iterator[FakeProbe]:
    """A run with 400 losses, which obeys when the test does."""
    with FakeProbe(web_home, hello_of(name="charted")) as probe:
        probe.join()
        for loss in healthy_losses(400):
            probe.send_step(loss)
        yield probe
        probe.bye()


@pytest.fixture(scope="session")
def server(web_home: Home, probe: FakeProbe) -> Iterator[WebServer]:
    """It may only look."""
    server = WebServer(web_home, "charted")
    yield server
    assert server.end() == 0, server.said


@pytest.fixture(scope="session")
def acting_server(web_home: Home, probe: FakeProbe) -> Iterator[WebServer]:
    """It may act."""
    server = WebServer(web_home, "--operator", "charted")
    yield server
    assert server.end() == 0, server.said


@pytest.fixture
async def visitor(server: WebServer) -> AsyncIterator[Visitor]:
    """Somebody who was let in."""
    from tests.tui_web.visitor import Visitor

    visitor = Visitor(server)
    try:
        yield await visitor.enter()
    finally:
        await visitor.close()


@pytest.fixture(scope="session")
def chromium(extra: None) -> Iterator[Chromium]:
    """The browser."""
    from tests.tui_web.chromium import CHROMIUM, Chromium

    if CHROMIUM is None:
        pytest.skip("needs chromium: apt install chromium")
    profile = Path(tempfile.mkdtemp(prefix="lg-chromium-"))
    browser = Chromium(profile)
    try:
        yield browser
    finally:
        browser.close()
        shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
async def tab(chromium: Chromium) -> AsyncIterator[Tab]:
    """A tab of a browser that has never been here."""
    from tests.tui_web.chromium import Tab

    async with Tab(chromium) as tab:
        yield tab
