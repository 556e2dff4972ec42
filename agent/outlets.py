"""What the agent says to programs that watch it: metrics, and pings that it is there."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from lossguard.agent.dead_man_settings import URL, DeadManSettings
from lossguard.agent.otel.settings import OtelSettings
from lossguard.agent.prometheus import figures
from lossguard.agent.prometheus.figures import Figures, Newest, Sources
from lossguard.errors import ConfigError

if TYPE_CHECKING:
    from lossguard.agent.alerts.notifier import Notifier
    from lossguard.agent.dead_man import DeadMan
    from lossguard.agent.otel.sender import Sender
    from lossguard.agent.prometheus.exporter import Exporter

log = logging.getLogger(__name__)


class OutletOptions(NamedTuple):
    """What there is to serve; by default nothing."""

    metrics: str = ""
    """HOST:PORT; empty for none."""
    must_serve: bool = False
    """Whether the agent ends where that address is taken. Else it goes on, and tries again."""
    dead_man: DeadManSettings = DeadManSettings()
    otel: OtelSettings = OtelSettings()


class Outlets:
    """Of one agent. Raises ConfigError, by ``must_serve``."""

    def __init__(
        self,
        options: OutletOptions,
        sources: Sources,
        notifier: Notifier | None,
    ) -> None:
        self._sources = sources
        self._notifier = notifier
        self._newest: Newest | None = None
        self._exporter: Exporter | None = None
        self._sender: Sender | None = None
        self._dead_man: DeadMan | None = None
        if options.dead_man.url_file or os.environ.get(URL):
            from lossguard.agent.dead_man import DeadMan

            self._dead_man = DeadMan(options.dead_man)
        if options.metrics or options.otel.endpoint:
            self._newest = Newest(self._take)
            if options.otel.endpoint:
                self._sender = _sender(options.otel, self._newest)
            if options.metrics:
                from lossguard.agent.prometheus.exporter import Exporter

                must_serve = options.must_serve
                self._exporter = Exporter(options.metrics, self._newest, must_serve=must_serve)

    def _take(self) -> Figures:
        return figures.take(
            self._sources,
            self._notifier.states if self._notifier is not None else {},
            self._dead_man.state if self._dead_man is not None else None,
            self._sender.state if self._sender is not None else None,
        )

    @property
    def are_open(self) -> bool:
        """Whether somebody counts on this agent to be there."""
        return any(o is not None for o in (self._exporter, self._sender, self._dead_man))

    def troubles(self) -> dict[str, str]:
        """What there is, and why it does not do what it should; empty where it does."""
        known = {"metrics": self._exporter, "dead man's switch": self._dead_man}
        return {name: outlet.trouble for name, outlet in known.items() if outlet is not None}

    def tick(self) -> None:
        """A few times a second, in the loop."""
        self._sources.lag.note(time.monotonic())
        if self._dead_man is not None:
            self._dead_man.tick()
        if self._newest is not None:
            self._newest.tick()
        if self._exporter is not None:
            self._exporter.tick()

    def close(self) -> None:
        """Idempotent."""
        if self._dead_man is not None:
            self._dead_man.close()
        if self._exporter is not None:
            self._exporter.close()
        if self._sender is not None:
            self._sender.close()


def _sender(settings: OtelSettings, newest: Newest) -> Sender | None:
    """Where it cannot be had, training is watched without."""
    from lossguard.agent.otel.sender import Sender

    try:
        return Sender(settings, newest)
    except ConfigError as error:
        log.error("%s; the agent goes on", error)
        return None
