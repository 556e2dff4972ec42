"""What the agent's loop holds of the export: it opens the address, and waits for nobody."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, ProcessCollector

from lossguard.agent.prometheus.families import Families
from lossguard.agent.prometheus.figures import Figures
from lossguard.agent.prometheus.server import Server
from lossguard.errors import ConfigError

log = logging.getLogger(__name__)

_TRY_AGAIN_S = 30.0


class Exporter:
    """Serves the newest figures at an address. Raises ConfigError where ``must_serve`` and the
    address is taken; else it is tried again, and the agent goes on."""

    def __init__(self, address: str, newest: Callable[[], Figures], *, must_serve: bool) -> None:
        self._address = address
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(namespace="lossguard_agent", registry=self._registry)
        self._registry.register(Families(newest))
        self._server: Server | None = None
        self._tried_s = float("-inf")
        self.trouble = ""
        """Why nothing is served; empty where it is."""
        if must_serve:
            self._serve()

    def tick(self) -> None:
        """A few times a second, in the loop."""
        now = time.monotonic()
        if self._server is None and now - self._tried_s >= _TRY_AGAIN_S:
            self._tried_s = now
            try:
                self._serve()
            except ConfigError as error:
                if not self.trouble:
                    log.error("%s; it is tried again, and the agent goes on", error)
                self.trouble = str(error)

    def _serve(self) -> None:
        self._server = Server(self._address, self._registry)
        self.trouble = ""
        log.info("metrics are served at http://%s/metrics", self._address)

    def close(self) -> None:
        """Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
