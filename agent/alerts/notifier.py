"""Where the agent's loop hands over what people should hear of. Nothing here waits or raises."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lossguard.agent.alerts.measuring import measure
from lossguard.agent.alerts.records import IncidentNews, News, RunNews
from lossguard.agent.alerts.secrecy import redact_logs
from lossguard.agent.alerts.targets import Target
from lossguard.agent.alerts.transport import NotifierState
from lossguard.agent.alerts.worker import Teller, Worker
from lossguard.agent.feed import Series
from lossguard.home import Home

if TYPE_CHECKING:
    from lossguard.agent.incidents import Incident
    from lossguard.agent.live import LiveRun
    from lossguard.agent.registry import Registry
    from lossguard.agent.settings import AgentSettings

_RECENT_S = 3600.0
_PATIENCE_S = 1.5
_LOOKED_BACK = 50
"""Of each run, the newest so many incidents are looked at when the agent begins."""


class Notifier:
    """Of one agent. It begins with how all stands: the agent before may have died too early."""

    def __init__(
        self, home: Home, settings: AgentSettings, targets: Sequence[Target], registry: Registry
    ) -> None:
        redact_logs()
        self._changed: dict[str, tuple[LiveRun, Incident]] = {}
        self._states: dict[str, str] = {}
        self._workers = {
            target.name: Worker(partial(_open, target, home, settings)) for target in targets
        }
        for worker in self._workers.values():
            worker.start()
        self._registry = registry
        for live in registry.newest_first():
            for incident in live.run.incidents.all[-_LOOKED_BACK:]:
                self._note(live, incident)
        registry.tell(self._note)

    @property
    def states(self) -> Mapping[str, NotifierState]:
        """How it does, by the name of the target; may be asked at any time."""
        return {name: worker.state for name, worker in self._workers.items()}

    def tick(self) -> None:
        """Hand over what has changed. A few times a second, after the store has written it down:
        people are told only of what the next agent knows, too."""
        runs = self._registry.runs.values()
        news: list[News] = [run_news(live) for live in runs if self._has_changed(live)]
        changed, self._changed = self._changed, {}
        news += [self._news(live, incident) for live, incident in changed.values()]
        for worker in self._workers.values() if news else ():
            worker.tell(news)

    def close(self) -> None:
        """The agent ends: a message that is under way gets a little time."""
        deadline = time.monotonic() + _PATIENCE_S
        for worker in self._workers.values():
            worker.end()
        for worker in self._workers.values():
            worker.close(patience_s=max(0.0, deadline - time.monotonic()))

    def _note(self, live: LiveRun, incident: Incident) -> None:
        self._changed[incident.id] = (live, incident)

    def _has_changed(self, live: LiveRun) -> bool:
        before = self._states.get(live.hello.run)
        self._states[live.hello.run] = live.state
        return before != live.state

    def _news(self, live: LiveRun, incident: Incident) -> IncidentNews:
        line = incident.line()
        shown: list[Series] = []
        if incident.is_open or time.time() - line.opened < _RECENT_S:
            names = dict.fromkeys((line.metric, "loss"))
            known = live.run.histories
            shown = [known[name].series(name) for name in names if name in known]
        about = next((series for series in shown if series.metric == line.metric), None)
        return IncidentNews(
            line=line,
            name=live.hello.name,
            acts=live.run.policy.acts,
            bundle=str(live.folder_of(line.id)),
            measured=measure(about, line.onset_step) if about is not None else None,
            series=tuple(shown),
        )


def _open(target: Target, home: Home, settings: AgentSettings) -> Teller:
    return target.open_teller(home.state, settings, time.time())


def run_news(live: LiveRun) -> RunNews:
    """How a run stands."""
    return RunNews(
        run=live.hello.run,
        name=live.hello.name,
        state=live.state,
        step=live.run.step,
        started=live.hello.started_s,
    )
