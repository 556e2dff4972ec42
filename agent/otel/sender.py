"""Who sends the metrics to a collector: a thread of its own, patient with nobody."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import NamedTuple

import lossguard
from lossguard.agent.alerts.secrecy import secret
from lossguard.agent.otel.settings import HEADERS, OtelSettings
from lossguard.agent.plain_http import opener_for, reason_of
from lossguard.agent.prometheus.figures import Figures
from lossguard.errors import ConfigError

log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0
_LAST_WORD_S = 1.0
"""For the last figures, when the agent ends [s]."""
_MAX_ANSWER_BYTES = 1 << 16
_HEADER = re.compile(r"(?P<name>[A-Za-z0-9!#$%&'*+.^_`|~-]+):\s*(?P<value>[\x21-\x7e][\x20-\x7e]*)")


class SendingState(NamedTuple):
    """How it went since the agent began."""

    succeeded: int = 0
    failed: int = 0
    last_success_s: float = 0.0
    """Wall clock [s since the epoch]; 0: never."""


class Sender:
    """Sends what ``newest`` gives until closed. Raises ConfigError where OpenTelemetry is missing.

    No variable of OpenTelemetry's (``OTEL_*``) has a say: they are of the training program that
    started this agent.
    """

    def __init__(self, settings: OtelSettings, newest: Callable[[], Figures]) -> None:
        try:
            from lossguard.agent.otel import message
        except Exception as error:  # not installed, or for another protobuf than there is
            raise ConfigError(
                f"no metrics are sent to {settings.endpoint}: OpenTelemetry cannot be imported "
                f"({error}); say `pip install 'lossguard[otel]'`"
            ) from error
        self._message = message
        self._settings = settings
        self._newest = newest
        self._began_ns = time.time_ns()
        self._trouble = ""
        self._ending = threading.Event()
        self.state = SendingState()
        self._thread = threading.Thread(target=self._run, name="lossguard-otel", daemon=True)
        self._thread.start()
        log.info("metrics are sent to %s", settings.endpoint)

    def close(self) -> None:
        """Send a last time; waits up to 1 s for that, and leaves what takes longer to itself.
        Idempotent."""
        self._ending.set()
        self._thread.join(_LAST_WORD_S)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ending.is_set()
            self._note(self._send())
            self._ending.wait(self._settings.interval_s)

    def _send(self) -> str:
        """What went wrong; empty for nothing. The headers are looked up each time: they may have
        been put right. Takes up to 5 s, or so long a step of it; what fails is not repeated, for
        the next message says more."""
        url = self._settings.endpoint
        try:
            headers = {
                **headers_of(self._settings),
                "User-Agent": f"lossguard/{lossguard.__version__}",
                "Content-Type": self._message.CONTENT_TYPE,
            }
            body = self._message.encode(self._newest(), _resource(), self._began_ns)
            request = urllib.request.Request(url, body, headers)
            with opener_for(url).open(request, timeout=_TIMEOUT_S) as answer:
                is_ours = answer.headers.get_content_type() == self._message.CONTENT_TYPE
                said = answer.read(_MAX_ANSWER_BYTES) if is_ours else b""
            rejected = self._message.num_rejected(said)
            return f"{rejected} points were rejected" if rejected else ""
        except ConfigError as error:
            return str(error)
        except urllib.error.HTTPError as error:
            error.close()
            return f"the answer is {error.code}"
        except Exception as error:  # whatever it is, it must not end this thread
            return reason_of(error)

    def _note(self, trouble: str) -> None:
        if trouble:
            if not self._trouble:
                endpoint = self._settings.endpoint
                log.error("metrics cannot be sent to %s: %s; it is tried again", endpoint, trouble)
            self.state = self.state._replace(failed=self.state.failed + 1)
        else:
            if self._trouble:
                log.info("metrics are sent to %s again", self._settings.endpoint)
            num = self.state.succeeded + 1
            self.state = self.state._replace(succeeded=num, last_success_s=time.time())
        self._trouble = trouble


def headers_of(settings: OtelSettings) -> dict[str, str]:
    """Raises ConfigError: for a file that cannot be used, and for a line that is no header."""
    headers = {}
    lines = secret(HEADERS, settings.headers_file).splitlines()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if (header := _HEADER.fullmatch(text)) is None:
            where = f"line {number} of {HEADERS} or [otel] headers_file"
            raise ConfigError(f"{where} is no header; one a line, `Name: value`")
        headers[header["name"]] = header["value"]
    return headers


def _resource() -> list[tuple[str, str]]:
    host = socket.gethostname()
    return [
        ("service.name", "lossguard"),
        ("service.version", lossguard.__version__),
        # Agents of two users of a host are told apart, and one that restarts stays the same.
        ("service.instance.id", f"{host}:{os.getuid()}"),
        ("host.name", host),
    ]
