"""The connection by which Slack says that a button was pressed: Socket Mode, no public address.

Through slack_sdk's own client, but for when it connects anew: that is decided here, with patience
and by Slack's ``Retry-After``, in a thread of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

from slack_sdk import WebClient
from slack_sdk.errors import SlackClientError
from slack_sdk.socket_mode.builtin.client import SocketModeClient
from slack_sdk.socket_mode.builtin.connection import Connection
from slack_sdk.socket_mode.client import BaseSocketModeClient

from lossguard.agent.alerts import slack
from lossguard.agent.alerts.press import Press, press_of
from lossguard.agent.alerts.secrecy import APP_TOKEN
from lossguard.agent.alerts.settings import SlackSettings
from lossguard.agent.alerts.transport import NotifierState, NotNow
from lossguard.agent.loopback import is_loopback_url

log = logging.getLogger(__name__)

_TIMEOUT_S = 15
_LOOK_EVERY_S = 1.0
_PING_S = 10.0
_HELLO_S = 10.0
_LONGEST_S = 300.0
_STEADY_S = 60.0
"""A connection that has lasted so long was a good one: the next is made at once [s]."""


class _Client(SocketModeClient):  # type: ignore[misc, unused-ignore]
    """Leaves it to others when to connect, and notices when the other side is gone."""

    def __init__(self, token: str, wake: Callable[[], None], **more: Any) -> None:
        self.must_renew = False
        self._wake = wake
        super().__init__(token, auto_reconnect_enabled=False, **more)

    def connect_to_new_endpoint(self, force: bool = False) -> None:
        """Slack wants this connection to end; it goes on until there is another."""
        self.must_renew = True
        self._wake()

    def connect(self) -> None:
        super().connect()
        session = self.current_session
        if session is not None:
            session.close = partial(_end, session)  # type: ignore[method-assign]
            if session.sock is not None:
                session.sock = _Noticing(session.sock)  # type: ignore[assignment]
        self.must_renew = False

    def hang_up(self) -> None:
        """At once."""
        if self.current_session is not None:
            _end(self.current_session)


def _end(session: Connection) -> None:
    """At once; slack_sdk would wait for what is still to come."""
    if (sock := session.sock) is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(AttributeError):  # the thread that reads was quicker
        session.disconnect()


class _Noticing:
    """A socket; slack_sdk reads one whose other side is gone again and again, as fast as it can."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def recv(self, size: int) -> bytes:
        data: bytes = self._sock.recv(size)
        if not data:
            raise ConnectionResetError("the other side has closed the connection")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class SocketMode:
    """Connected from ``start`` to ``end``; ``hand_over`` is called in another thread for every
    press, after Slack's envelope has been acknowledged."""

    def __init__(self, settings: SlackSettings, hand_over: Callable[[Press], None]) -> None:
        self._settings = settings
        self._hand_over = hand_over
        self._client: _Client | None = None
        self._something = threading.Event()
        self._ending = False
        self._has_hello = False
        self._was_heard = False
        self._connected_s = 0.0
        self._not_before_s = 0.0
        self._failures = 0
        self.state = NotifierState(state="starting")
        self._thread = threading.Thread(target=self._run, name="lossguard-buttons", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_live(self) -> bool | None:
        """Whether a press would be heard, a short break aside; None before that is known."""
        if self.state.state == "failing":
            return False
        return True if self._was_heard else None

    def end(self) -> None:
        """No press is heard from now on."""
        self._ending = True
        self._something.set()

    def close(self, patience_s: float) -> None:
        """As ``end``, and wait for it for up to ``patience_s`` [s]."""
        self.end()
        self._thread.join(patience_s)

    # --- the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ending:
            self._something.clear()
            try:
                self._look(time.monotonic())
            except NotNow as trouble:
                self._wait(trouble, time.monotonic())
            except Exception as error:
                self._wait(NotNow(f"{type(error).__name__}: {error}"), time.monotonic())
            if not self._ending:
                self._something.wait(_LOOK_EVERY_S)
        if self._client is not None:
            self._client.hang_up()
            self._client.close()

    def _look(self, now: float) -> None:
        """Connect where it takes that, and is not too early. Raises NotNow."""
        client = self._client
        if client is not None and client.is_connected() and not client.must_renew:
            lasted_s = now - self._connected_s
            if not self._has_hello and lasted_s > _HELLO_S:
                client.hang_up()
                raise NotNow("Slack takes the connection and says nothing")
            if lasted_s > _STEADY_S:
                self._failures, self._not_before_s = 0, now
            return
        if client is not None and not client.is_connected() and self.state.state == "ok":
            self._become("waiting", "the connection to Slack was lost")
        if now < self._not_before_s:
            return
        self._not_before_s = now + min(_LONGEST_S, 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        self._connect()

    def _connect(self) -> None:
        """Anew; the token is read again: it may have been put right."""
        token = slack.needed_secret(APP_TOKEN, self._settings.app_token_file)
        web = WebClient(
            base_url=slack.api_url(), timeout=_TIMEOUT_S, retry_handlers=[],
            logger=slack.quiet_logger(),
        )  # fmt: skip
        if is_loopback_url(slack.api_url()):
            web.proxy = None
        try:
            url = str(web.apps_connections_open(app_token=token)["url"])
        except (SlackClientError, OSError, http.client.HTTPException, ValueError) as error:
            raise _explained(error) from error
        _check_address(url)
        if self._client is None:
            self._client = self._new_client(token, web, url)
        self._client.wss_uri = url
        self._has_hello = False
        self._connected_s = time.monotonic()
        self._client.connect()
        if not self._client.is_connected():
            raise NotNow("Slack's Socket Mode does not take the connection")

    def _new_client(self, token: str, web: WebClient, url: str) -> _Client:
        client = _Client(
            token,
            self._something.set,
            logger=slack.quiet_logger(),
            web_client=web,
            ping_interval=_PING_S,
            receive_buffer_size=1 << 16,
            concurrency=1,
        )
        if is_loopback_url(url):
            client.proxy = None
        client.message_listeners.append(self._hear)
        return client

    def _wait(self, trouble: NotNow, now: float) -> None:
        if trouble.after_s is not None:
            self._not_before_s = now + trouble.after_s
        self._become("failing" if trouble.is_setup else "waiting", str(trouble))

    def _become(self, state: Literal["ok", "waiting", "failing"], why: str = "") -> None:
        """One line for every change."""
        if (self.state.state, self.state.why) == (state, why):
            return
        if state != "ok":
            level = logging.ERROR if state == "failing" else logging.WARNING
            log.log(level, "buttons in Slack wait: %s", why)
        elif self.state.state != "ok":
            log.info("buttons in Slack are listened to")
        self.state = NotifierState(state=state, why=why)

    # --- a thread of slack_sdk's ----------------------------------------------------------

    def _hear(
        self, client: BaseSocketModeClient, message: dict[str, Any], raw: str | None = None
    ) -> None:
        if message.get("type") == "hello" and client.is_connected():
            self._has_hello = self._was_heard = True
            self._become("ok")
        envelope = message.get("envelope_id")
        if not isinstance(envelope, str):
            return
        # First of all, for Slack waits for three seconds; one that was not told that its press
        # was heard is shown that it was not.
        try:
            client.send_socket_mode_response({"envelope_id": envelope})
        except SlackClientError:
            log.warning("a button was pressed as the connection to Slack broke: nothing was done")
            return
        if message.get("type") == "interactive" and (press := press_of(message)) is not None:
            self._hand_over(press)


def _check_address(url: str) -> None:
    """slack_sdk encrypts for port 443 alone."""
    parts = urlsplit(url)
    is_safe = parts.scheme == "wss" and parts.port in (None, 443)
    if not is_safe and not is_loopback_url(url):
        raise NotNow("Slack names an address for Socket Mode that is not encrypted")


def _explained(error: Exception) -> NotNow:
    """What it means for a person who made the token."""
    data = getattr(getattr(error, "response", None), "data", None)
    code = str(data.get("error", "")) if isinstance(data, dict) else ""
    if code in slack.BAD_TOKEN:
        why = f"Slack does not take the app token ({code}): set {APP_TOKEN} to a valid xapp token"
        return NotNow(why, is_setup=True)
    if code == "missing_scope":
        why = (
            "the app token lacks the scope connections:write: make a new one under Basic "
            "Information, App-Level Tokens"
        )
        return NotNow(why, is_setup=True)
    trouble = slack.trouble_of(error, "", "connections:write")
    if isinstance(trouble, NotNow):
        return trouble
    why = f"{trouble}: is Socket Mode switched on in the settings of the Slack app?"
    return NotNow(why, is_setup=True)
