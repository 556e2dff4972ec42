"""What the agent says to programs that watch it: metrics, and pings that it is there."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from lossguard.agent.dead_man_settings import URL, DeadManSettings

if TYPE_CHECKING:
    from lossguard.agent.alerts.notifier import Notifier
    from lossguard.agent.dead_man import DeadMan
    from lossguard.agent.prometheus.exporter import Exporter
    from lossguard.agent.prometheus.figures import Sources


class OutletOptions(NamedTuple):
    """What there is to serve; by default nothing."""

    metrics: str = ""
    """HOST:PORT; empty for none."""
    must_serve: bool = False
    """Whether the agent ends where that address is taken. Else it goes on, and tries again."""
    dead_man: DeadManSettings = DeadManSettings()


NO_OUTLETS = OutletOptions()


class Outlets:
    """Of one agent. Raises ConfigError, by ``must_serve``."""

    def __init__(
        self,
        options: OutletOptions,
        sources: Sources,
        notifier: Notifier | None,
    ) -> None:
        self._lag = sources.lag
        self._exporter: Exporter | None = None
        self._dead_man: DeadMan | None = None
        if options.dead_man.url_file or os.environ.get(URL):
            from lossguard.agent.dead_man import DeadMan

            self._dead_man = DeadMan(options.dead_man)
        if options.metrics:
            from lossguard.agent.prometheus.exporter import Exporter

            pings = self._dead_man
            self._exporter = Exporter(
                options.metrics,
                sources,
                must_serve=options.must_serve,
                alerts=lambda: notifier.states if notifier is not None else {},
                dead_man=lambda: pings.state if pings is not None else None,
            )

    @property
    def are_open(self) -> bool:
        """Whether somebody counts on this agent to be there."""
        return self._exporter is not None or self._dead_man is not None

    def tick(self) -> None:
        """A few times a second, in the loop."""
        self._lag.note(time.monotonic())
        if self._dead_man is not None:
            self._dead_man.tick()
        if self._exporter is not None:
            self._exporter.tick()

    def close(self) -> None:
        """Idempotent."""
        if self._dead_man is not None:
            self._dead_man.close()
        if self._exporter is not None:
            self._exporter.close()
