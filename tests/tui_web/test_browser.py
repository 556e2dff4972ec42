"""A real Chromium: what somebody who opens the link gets to see, and may do."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageColor

from lossguard.probes import wire
from lossguard.tui.deeds import LOOKS_ON
from lossguard.tui.theme import LOSSGUARD
from tests.support.probe import FakeProbe
from tests.tui_web.web_server import WebServer

if TYPE_CHECKING:
    from tests.tui_web.chromium import Tab

CURVE = "[\u2801-\u28ff]{6}"
"""A line of braille: the chart."""
OPENED = "lossguard top\n"
"""The title of the dashboard's page."""


async def open_chart(tab: Tab, server: WebServer) -> None:
    """By a new link, until there is a curve."""
    await tab.open(server.new_link())
    await tab.until(CURVE)


def falls(screenshot: bytes) -> bool:
    """Whether the picture shows a curve of the loss's colour, higher at its left than at its right.

    The lines at the top and the bottom of the screen have words in the same colour.
    """
    image = np.asarray(Image.open(io.BytesIO(screenshot)).convert("RGB"), dtype=int)[60:-60]
    distance = np.abs(image - ImageColor.getrgb(LOSSGUARD.primary)).sum(axis=2)
    y, x = np.nonzero(distance < 60)
    if len(x) < 200:
        return False
    left, right = x <= np.quantile(x, 0.1), x >= np.quantile(x, 0.9)
    return bool(y[left].mean() < y[right].mean() - 20)


async def socket_opens(tab: Tab, url: str) -> bool:
    """Whether a script of the page that is open can connect."""
    return bool(
        await tab.evaluate(
            f"new Promise(done => {{ const socket = new WebSocket({json.dumps(url)});"
            "socket.onopen = () => { socket.close(); done(true) };"
            "socket.onerror = () => done(false) })"
        )
    )


async def test_the_link_opens_the_chart_and_asks_no_other_host(tab: Tab, server: WebServer) -> None:
    """The picture is painted, fonts and all, and nothing breaks the page's own rules."""
    await open_chart(tab, server)
    for _ in range(200):
        if falls(await tab.screenshot()):
            break
    else:
        raise AssertionError("no falling curve on the screen")
    assert len(tab.requests) >= 6
    own = (server.origin, f"ws://{server.host}/")
    assert [url for url in tab.requests if not url.startswith(own)] == []
    assert tab.complaints == []
    assert await tab.evaluate("document.fonts.check('16px \\'Roboto Mono\\'')")
    await tab.evaluate("new Image().src = 'http://127.0.0.1:1/x.png'")
    await tab.evaluate("document.body.append(document.createElement('script')).textContent = '1'")
    await tab.complained("Content Security Policy")


async def test_a_key_reaches_the_app_and_quitting_is_told(tab: Tab, server: WebServer) -> None:
    """Also where the link was on a page of another site."""
    await tab.open(f"http://evil.example:{server.host.partition(':')[2]}/")
    await tab.until_page("Not from here")
    await tab.evaluate(f"location.href = {json.dumps(server.new_link())}")
    await tab.until(CURVE)
    before, painted = await tab.screenshot(), len(tab.terminal)
    await tab.press("?")
    await tab.until("this help", painted)
    assert await tab.screenshot() != before
    await tab.press("q")
    await tab.press("q")
    await tab.until_page("This dashboard has ended")


async def test_a_used_link_says_what_to_do(tab: Tab, server: WebServer) -> None:
    """Whoever is in stays in."""
    await tab.open(server.new_link())
    await tab.until_page(OPENED)
    place = await tab.evaluate("location.href")
    await tab.open(server.link)
    await tab.until_page("was used before")
    await tab.until_page("Ctrl-\\")
    await tab.open(place)
    await tab.until_page(OPENED)


async def test_pages_of_another_port_and_another_name_are_refused(
    tab: Tab, server: WebServer
) -> None:
    """The browser sends the cookie to a socket that a page of another port opens."""
    await tab.open(server.new_link())
    await tab.until_page(OPENED)
    place = str(await tab.evaluate("location.pathname"))
    socket = f"ws://{server.host}{place}ws"
    assert await socket_opens(tab, socket)
    await tab.open(tab.other_port)
    await tab.until_page("webSocketDebuggerUrl")
    assert not await socket_opens(tab, socket)
    await tab.open(server.origin.replace("127.0.0.1", "evil.example") + place)
    await tab.until_page("Not from here")


async def test_without_operator_no_key_acts(tab: Tab, server: WebServer, probe: FakeProbe) -> None:
    """The app says why; nothing reaches the training."""
    heard = len(probe.commands())
    await open_chart(tab, server)
    await tab.press("C")
    await tab.until(LOOKS_ON.partition(":")[0])
    assert len(probe.commands()) == heard


async def test_an_operator_acts(tab: Tab, acting_server: WebServer, probe: FakeProbe) -> None:
    """The same key reaches the training."""
    await open_chart(tab, acting_server)
    await tab.press("C")
    command = await asyncio.to_thread(probe.await_message, wire.Command)
    assert command.action == "checkpoint"
    probe.ack(command)
