"""The real server, asked by somebody who means no good."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import PATIENCE_S, becomes, eventually
from tests.tui_web.web_server import WebServer

if TYPE_CHECKING:
    from tests.tui_web.visitor import Visitor

FOREIGN = "http://evil.example"


async def test_who_was_let_in_gets_the_page_and_its_files_and_nothing_else(
    visitor: Visitor,
) -> None:
    """Known files by name; no listing, no download, no way out of the folder."""
    page = await visitor.ask(visitor.place)
    assert page.status == 200
    assert f'"ws://{visitor.server.host}{visitor.place}ws"' in page.text
    for name in ("textual.js", "xterm.css", "page.css", "mono.ttf"):
        assert (await visitor.ask(visitor.place + name)).status == 200
    for path in ("static/", "download/x", "gate.py", "page.html", "%2e%2e/gate.py"):
        assert (await visitor.ask(visitor.place + path)).status == 404


async def test_without_the_cookie_every_door_is_closed(visitor: Visitor) -> None:
    """Also those that are not there."""
    for path in ("", "textual.js", "ws", "nothing"):
        assert (await visitor.ask(visitor.place + path, Cookie="")).status == 403
    assert (await visitor.ask("/nothing", Cookie="")).status == 403
    assert await visitor.knock(Cookie="") == 403
    name, _, value = visitor.cookie["Cookie"].partition("=")
    assert await visitor.knock(Cookie=f"{name}={value[:-1]}") == 403
    assert await visitor.knock() == 101


async def test_a_wrong_and_a_used_link_are_refused_with_advice(visitor: Visitor) -> None:
    """The page says how to get a new one."""
    used = visitor.server.link.removeprefix(visitor.server.origin)
    for path in (used, "/?token=x", "/"):
        answer = await visitor.ask(path, Cookie="")
        assert answer.status == 403
        assert "Ctrl-\\" in answer.text
        assert "Set-Cookie" not in answer.headers


async def test_foreign_pages_and_names_are_refused_cookie_or_not(visitor: Visitor) -> None:
    """A page of another site, of another port, of no site; a name that was made to point here."""
    other_port = "http://127.0.0.1:1"
    for origin in (FOREIGN, other_port, "null", ""):
        assert await visitor.knock(Origin=origin) == 403
    for origin in (FOREIGN, other_port, "null"):
        assert (await visitor.ask(visitor.place, Origin=origin)).status == 403
    host = f"evil.example:{visitor.server.host.partition(':')[2]}"
    assert (await visitor.ask(visitor.place, Host=host)).status == 403
    assert await visitor.knock(Host=host, Origin=f"http://{host}") == 403


async def test_a_link_is_not_used_up_by_a_foreign_page_or_another_method(
    visitor: Visitor,
) -> None:
    """It still opens afterwards."""
    link = visitor.server.new_link().removeprefix(visitor.server.origin)
    assert (await visitor.ask(link, Origin=FOREIGN)).status == 403
    assert (await visitor.ask(link, Host="evil.example")).status == 403
    for method in ("HEAD", "POST", "OPTIONS"):
        assert (await visitor.ask(link, method)).status == 405
    assert (await visitor.ask(link)).status == 200


async def test_every_answer_is_guarded(visitor: Visitor) -> None:
    """No foreign content, no frames, no guessing of types, no referrer, nothing kept."""
    for path in ("/", visitor.place, visitor.place + "textual.js", visitor.place + "nothing"):
        headers = (await visitor.ask(path)).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "http" not in policy
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert "aiohttp" not in headers["Server"]


async def test_the_cookie_is_out_of_reach(visitor: Visitor) -> None:
    """Of scripts, of other sites, and of other servers on this host."""
    answer = await visitor.ask(visitor.server.new_link().removeprefix(visitor.server.origin))
    cookie, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", f"Path={visitor.place}"} == set(attributes)
    assert cookie.partition("=")[2] not in answer.text


@pytest.mark.parametrize(
    "said",
    [
        "no json", "{}", "[]", '["stdin"]', '["stdin", 1]', '["resize", {"width": "x"}]',
        '["quit"]', "[" * 60_000, '["stdin", "\\ud800"]', '["stdin", "' + "x" * 70_000 + '"]',
    ],
)  # fmt: skip
async def test_who_talks_nonsense_is_hung_up_on(visitor: Visitor, said: str) -> None:
    """Messages that are too large among it; the server goes on."""
    async with visitor.socket() as socket:
        await socket.send_str(said)
        async for _ in socket:
            pass
        assert socket.close_code in (1003, 1009)
    assert (await visitor.ask(visitor.place)).status == 200


async def test_neither_token_nor_cookie_is_logged_or_handed_on(visitor: Visitor) -> None:
    """Not to standard error, also for requests that fail, and not to the apps."""
    server = visitor.server
    token = server.new_link().partition("token=")[2]
    await visitor.ask("/?token=" + token)
    await visitor.ask("/?token=" + "x" * 9_000)
    async with visitor.socket() as socket:
        await socket.receive()
        apps = eventually(server.apps)
        known = [str((app.cmdline(), app.environ())) for app in apps]
    secrets = (token, visitor.cookie["Cookie"].partition("=")[2])
    for text in (server.said, *known):
        assert not any(secret in text for secret in secrets)


async def test_apps_are_few_and_end_with_their_tabs(visitor: Visitor) -> None:
    """One that is closed makes room."""
    from lossguard.tui.web.terminal import MOST_APPS

    server: WebServer = visitor.server
    eventually(lambda: not server.apps())
    sockets = [await visitor.socket() for _ in range(MOST_APPS)]
    assert await visitor.knock() == 503
    becomes(lambda: len(server.apps()), MOST_APPS)
    for socket in sockets:
        await socket.close()
    while await asyncio.wait_for(visitor.knock(), PATIENCE_S) != 101:
        await asyncio.sleep(0.01)
    eventually(lambda: not server.apps())
