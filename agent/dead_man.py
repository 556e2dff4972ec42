"""The dead man's switch: a URL hears of this agent every so often, and calls out when it does not.

The pings go out from a thread of their own, and only while the agent's loop is alive: an agent that
hangs is as silent as one that is dead.
"""

from __future__ import annotations

import http.client
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import NamedTuple

import lossguard
from lossguard.agent.alerts.secrecy import secret
from lossguard.agent.dead_man_settings import URL, DeadManSettings
from lossguard.agent.loopback import is_in_the_clear
from lossguard.agent.plain_http import opener_for, reason_of
from lossguard.errors import ConfigError

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_STANDSTILL_S = 30.0
"""A loop that has not come round for so long is dead [s]."""


class PingState(NamedTuple):
    """How the pings went since the agent began."""

    succeeded: int = 0
    failed: int = 0
    withheld: int = 0
    """Not sent, for the agent's loop stood still."""
    last_success_s: float = 0.0
    """Wall clock [s since the epoch]; 0: never."""


class DeadMan:
    """Pings from its own thread while ``tick`` is called."""

    def __init__(
        self, settings: DeadManSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._alive_s = clock()
        self._trouble = ""
        self._ending = threading.Event()
        self.state = PingState()
        self._thread = threading.Thread(target=self._run, name="lossguard-dead-man", daemon=True)
        self._thread.start()

    def tick(self) -> None:
        """The agent's loop is alive."""
        self._alive_s = self._clock()

    @property
    def trouble(self) -> str:
        """Why the last ping did not arrive; empty where it did. From any thread."""
        return self._trouble

    def close(self) -> None:
        """No further ping. One that is under way is left to itself."""
        self._ending.set()

    def _run(self) -> None:
        while not self._ending.is_set():
            if self._clock() - self._alive_s < _STANDSTILL_S:
                self._note(self._ping())
            else:
                self.state = self.state._replace(withheld=self.state.withheld + 1)
            self._ending.wait(self._settings.interval_s)

    def _ping(self) -> str:
        """What went wrong; empty for nothing. The URL is looked up each time: it may have been put
        right. Takes up to 10 s, or so long a step of it."""
        try:
            url = url_of(self._settings)
            agent = {"User-Agent": f"lossguard/{lossguard.__version__}"}
            request = urllib.request.Request(url, headers=agent)
            with opener_for(url).open(request, timeout=_TIMEOUT_S):
                return ""
        except ConfigError as error:
            return str(error)
        except urllib.error.HTTPError as error:
            error.close()
            return f"the answer is {error.code}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            return reason_of(error)

    def _note(self, trouble: str) -> None:
        if trouble:
            if not self._trouble:
                log.error("the dead man's switch cannot be pinged: %s; it is tried again", trouble)
            self.state = self.state._replace(failed=self.state.failed + 1)
        else:
            if self._trouble:
                log.info("the dead man's switch is pinged again")
            num = self.state.succeeded + 1
            self.state = self.state._replace(succeeded=num, last_success_s=time.time())
        self._trouble = trouble


def url_of(settings: DeadManSettings) -> str:
    """Raises ConfigError: for a file that cannot be used, and for a URL that would go over a
    network in the clear."""
    url = secret(URL, settings.url_file)
    if is_in_the_clear(url):
        raise ConfigError(f"the URL in {URL} or [dead_man] url_file is no https address")
    return url
