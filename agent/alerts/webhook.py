"""A webhook of anybody's: events as JSON, signed as Standard Webhooks say (HMAC-SHA256).

A receiver checks the signature over id, time and body, refuses what is old, and what has an id that
it has seen: the same event keeps its id however often it is sent.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import time
import urllib.error
import urllib.request

import lossguard
from lossguard.agent.alerts.events import body_of, event_of
from lossguard.agent.alerts.journal import Place
from lossguard.agent.alerts.other_settings import KEY, URL, WebhookSettings
from lossguard.agent.alerts.records import Saying
from lossguard.agent.alerts.rendering import Outgoing, Post
from lossguard.agent.alerts.secrecy import secret
from lossguard.agent.alerts.transport import Never, NotNow
from lossguard.agent.loopback import is_in_the_clear
from lossguard.agent.plain_http import opener_for, reason_of
from lossguard.errors import ConfigError

_TIMEOUT_S = 10.0
_LEAST_KEY = 24
"""Bytes, as Standard Webhooks ask for."""


class Webhook:
    """Posts each event once it is taken, or not; it cannot be answered or changed."""

    has_threads = False

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings

    def connect(self) -> str:
        self._address()
        return "a signed webhook"

    def channel_for(self, *, is_critical: bool) -> str:
        return "webhook"

    def render(self, saying: Saying, now: float) -> Post | None:
        """The text of the message is the body to send; None for what is no event."""
        body = event_of(saying, now)
        return Post(text=body, blocks=[]) if body else None

    def trial(self, now: float) -> Post:
        """An event to see whether events arrive."""
        return Post(text=body_of("test", {"message": "a test: events arrive here"}, now), blocks=[])

    def deliver(self, what: Outgoing, channel: str, place: Place | None) -> Place | None:
        if isinstance(what, Post):
            self._post(what.text.encode())
        return None

    def _post(self, body: bytes) -> None:
        url, key = self._address()
        name = f"evt_{hashlib.sha256(body).hexdigest()[:32]}"
        moment = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"lossguard/{lossguard.__version__}",
            "webhook-id": name,
            "webhook-timestamp": moment,
            "webhook-signature": signature(key, name, moment, body),
        }
        try:
            request = urllib.request.Request(url, data=body, headers=headers, method="POST")
            with opener_for(url).open(request, timeout=_TIMEOUT_S):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            raise _of_status(error.code, error.headers.get("Retry-After", "")) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotNow(f"the webhook cannot be reached ({reason_of(error)})") from None

    def _address(self) -> tuple[str, bytes]:
        """Anew for every message: it may have been put right."""
        try:
            url = secret(URL, self._settings.url_file)
            key = key_of(secret(KEY, self._settings.secret_file))
            if is_in_the_clear(url):
                raise ConfigError(f"the URL in {URL} or [webhook] url_file is no https address")
        except (ConfigError, ValueError) as error:
            why = str(error) if isinstance(error, ConfigError) else "the webhook's URL is no URL"
            raise NotNow(why, is_setup=True) from None
        return url, key


def key_of(text: str) -> bytes:
    """``whsec_`` and the key in base64. Raises ConfigError."""
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith("whsec_") or len(key) < _LEAST_KEY:
        raise ConfigError(
            f"the key of the webhook's signatures ({KEY}, or [webhook] secret_file) is to be "
            f"whsec_ and {_LEAST_KEY} bytes or more in base64: "
            "echo whsec_$(openssl rand -base64 32)"
        )
    return key


def signature(key: bytes, name: str, moment: str, body: bytes) -> str:
    """The value of the header ``webhook-signature``."""
    signed = b".".join((name.encode(), moment.encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _of_status(status: int, retry_after: str) -> NotNow | Never:
    why = f"the webhook answers {status}"
    if status in (401, 403, 404, 410) or 300 <= status < 400:
        return NotNow(why, is_setup=True)
    if status == 429 or status >= 500:
        is_number = retry_after.isdecimal()
        return NotNow(why, after_s=max(1.0, float(retry_after)) if is_number else None)
    return Never(why)
