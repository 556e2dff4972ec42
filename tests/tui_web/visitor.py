"""A client that says whatever it is told to, as a browser would never."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.tui_web.web_server import WebServer

Headers = dict[str, str]


@dataclass(frozen=True)
class Answer:
    """Of one request."""

    status: int
    headers: Headers
    text: str


class Visitor:
    """``place`` and ``cookie`` are what a browser has after it was let in."""

    def __init__(self, server: WebServer) -> None:
        self.server = server
        self.place = ""
        self.cookie: Headers = {}
        self._client = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())

    async def close(self) -> None:
        """Hang up."""
        await self._client.close()

    async def enter(self) -> Visitor:
        """Use up a link."""
        answer = await self.ask(self.server.new_link().removeprefix(self.server.origin))
        cookie, *attributes = answer.headers["Set-Cookie"].split("; ")
        self.cookie = {"Cookie": cookie}
        self.place = next(a.partition("=")[2] for a in attributes if a.startswith("Path="))
        return self

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """One request; the headers are added to the cookie, or replace it."""
        async with self._client.request(
            method, self.server.origin + path, headers=self.cookie | headers, allow_redirects=False
        ) as answer:
            text = (await answer.read()).decode(errors="replace")
            return Answer(answer.status, dict(answer.headers), text)

    async def knock(self, **headers: str) -> int:
        """Try to open the WebSocket: 101, or the status of the refusal."""
        try:
            async with self.socket(**headers):
                return 101
        except aiohttp.WSServerHandshakeError as refusal:
            return refusal.status

    def socket(self, **headers: str) -> Any:
        """The WebSocket, from the server's own page unless told otherwise."""
        known = self.cookie | {"Origin": self.server.origin} | headers
        return self._client.ws_connect(
            f"{self.server.origin}{self.place}ws?width=100&height=30",
            headers={name: value for name, value in known.items() if value},
        )
