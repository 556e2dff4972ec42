"""What the agent's loop holds of the export: it hands over figures, and waits for nobody."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector

from lossguard.agent.alerts.transport import NotifierState
from lossguard.agent.dead_man import PingState
from lossguard.agent.prometheus import figures
from lossguard.agent.prometheus.families import Families
from lossguard.agent.prometheus.server import Server
from lossguard.errors import ConfigError

log = logging.getLogger(__name__)

_EVERY_S = 1.0
_TRY_AGAIN_S = 30.0


class Exporter:
    """Serves the newest figures at an address. Raises ConfigError where ``must_serve`` and the
    address is taken; else it is tried again, and the agent goes on."""

    def __init__(
        self,
        address: str,
        sources: figures.Sources,
        *,
        must_serve: bool,
        alerts: Callable[[], Mapping[str, NotifierState]] = dict,
        dead_man: Callable[[], PingState | None] = lambda: None,
    ) -> None:
        self._address = address
        self._sources = sources
        self._alerts = alerts
        self._dead_man = dead_man
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(namespace="lossguard_agent", registry=self._registry)
        self._newest = figures.take(sources, alerts(), dead_man())
        self._registry.register(Families(lambda: self._newest))
        self._server: Server | None = None
        self._tried_s = float("-inf")
        self._said = False
        if must_serve:
            self._serve()

    def tick(self) -> None:
        """A few times a second, in the loop: about 0.1 ms a run, once a second."""
        now = time.monotonic()
        if now - self._newest.taken_s >= _EVERY_S:
            self._newest = figures.take(self._sources, self._alerts(), self._dead_man())
        if self._server is None and now - self._tried_s >= _TRY_AGAIN_S:
            self._tried_s = now
            try:
                self._serve()
            except ConfigError as error:
                if not self._said:
                    log.error("%s; it is tried again, and the agent goes on", error)
                self._said = True

    def _serve(self) -> None:
        self._server = Server(self._address, self._registry)
        log.info("metrics are served at http://%s/metrics", self._address)

    def close(self) -> None:
        """Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
