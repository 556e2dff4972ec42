"""Who may come in: one browser per link, and only as the page that this server gave it."""

from __future__ import annotations

import hmac
import secrets
from collections import deque
from collections.abc import Sequence

MOST_BROWSERS = 8
"""Cookies that are valid at once; the oldest makes room for the next."""


class Gate:
    """Links that open once, cookies, and the names this server goes by.

    ``place`` is the folder that everything lies in. Browsers send a cookie to every port of a
    host, but only below its path: who serves another port here cannot guess it, so never gets
    to see the cookie.
    """

    def __init__(self, port: int) -> None:
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self._token = ""
        self._cookies: deque[str] = deque(maxlen=MOST_BROWSERS)
        self.place = f"/{secrets.token_urlsafe(12)}/"
        self.cookie_name = f"lossguard-{port}"

    def new_link(self) -> str:
        """A link that opens once; the one before it opens no more."""
        self._token = secrets.token_urlsafe(32)
        return f"http://{self._hosts[0]}/?token={self._token}"

    def exchange(self, token: str) -> str | None:
        """A cookie for the token of the newest link, which is used up by that."""
        if not self._token or not _same(token, self._token):
            return None
        self._token = ""
        cookie = secrets.token_urlsafe(32)
        self._cookies.append(cookie)
        return cookie

    def knows(self, cookie: str) -> bool:
        """Whether this cookie was given to a browser."""
        return any(_same(cookie, known) for known in self._cookies)

    def is_own_page(self, hosts: Sequence[str], origins: Sequence[str], *, socket: bool) -> bool:
        """Whether a request came to a name of ours, and from our page or from no page.

        Another name means that a foreign site had its own name point here. Browsers always say
        where a WebSocket comes from, so one that does not say is refused.
        """
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return False
        if not origins:
            return not socket
        return list(origins) == [f"http://{hosts[0]}"]


def _same(offered: str, known: str) -> bool:
    return hmac.compare_digest(offered.encode(errors="replace"), known.encode())
