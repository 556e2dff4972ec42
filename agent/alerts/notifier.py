"""Where the agent's loop hands over what people should hear of. Nothing here waits or raises."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lossguard.agent import alerting
from lossguard.agent.alerts.buttons import Buttons
from lossguard.agent.alerts.measuring import measure
from lossguard.agent.alerts.records import IncidentNews, News, RunNews
from lossguard.agent.alerts.secrecy import redact_logs
from lossguard.agent.alerts.settings import SlackSettings
from lossguard.agent.alerts.targets import Target
from lossguard.agent.alerts.transport import NotifierState
from lossguard.agent.alerts.worker import Teller, Worker
from lossguard.agent.feed import Series
from lossguard.home import Home

if TYPE_CHECKING:
    from lossguard.agent.alerting import Orders
    from lossguard.agent.alerts.pressing import Pressing
    from lossguard.agent.incidents import Incident
    from lossguard.agent.live import LiveRun
    from lossguard.agent.registry import Registry
    from lossguard.agent.settings import AgentSettings

_SLACK, _BUTTONS = "slack", "slack buttons"
_RECENT_S = 3600.0
_PATIENCE_S = 1.5
_LOOKED_BACK = 50
"""Of each run, the newest so many incidents are looked at when the agent begins."""


class Notifier:
    """Of one agent. It begins with how all stands: the agent before may have died too early."""

    def __init__(
        self,
        home: Home,
        settings: AgentSettings,
        targets: Sequence[Target],
        registry: Registry,
        orders: Orders,
    ) -> None:
        redact_logs()
        self._changed: dict[str, tuple[LiveRun, Incident]] = {}
        self._states: dict[str, str] = {}
        self._registry = registry
        self._pressing = self._begin_pressing(home, settings.slack, targets, orders)
        buttons = self._pressing.buttons if self._pressing is not None else None
        self._workers = {
            target.name: Worker(
                partial(_open, target, home, settings, buttons if target.name == _SLACK else None)
            )
            for target in targets
        }
        for worker in self._workers.values():
            worker.start()
        for live in registry.newest_first():
            for incident in live.run.incidents.all[-_LOOKED_BACK:]:
                self._note(live, incident)
        registry.tell(self._note)
        if self._pressing is not None:
            self._pressing.socket.start()

    @property
    def states(self) -> Mapping[str, NotifierState]:
        """How it does, by the name of the target; may be asked at any time."""
        states = {name: worker.state for name, worker in self._workers.items()}
        if self._pressing is not None:
            states[_BUTTONS] = self._pressing.socket.state
        return states

    def tick(self) -> None:
        """Hand over what has changed. A few times a second, after the store has written it down:
        people are told only of what the next agent knows, too."""
        runs = self._registry.runs.values()
        news: list[News] = [run_news(live) for live in runs if self._has_changed(live)]
        changed, self._changed = self._changed, {}
        news += [self._news(live, incident) for live, incident in changed.values()]
        for worker in self._workers.values() if news else ():
            worker.tell(news)
        if self._pressing is not None:
            self._pressing.tick()

    def _begin_pressing(
        self, home: Home, slack: SlackSettings, targets: Sequence[Target], orders: Orders
    ) -> Pressing | None:
        """None, and nothing is loaded for it, where messages have no buttons."""
        by_bot = any(one.name == _SLACK and one.transport.has_threads for one in targets)
        if not by_bot or not (slack.operators or alerting.has_app_token(slack)):
            return None
        from lossguard.agent.alerts import pressing

        if not pressing.is_wanted(slack):
            return None
        return pressing.Pressing(home, slack, self._registry, orders, self._tell_slack)

    def _tell_slack(self, news: Sequence[News]) -> None:
        self._workers[_SLACK].tell(news)

    def close(self) -> None:
        """The agent ends: a message that is under way gets a little time."""
        deadline = time.monotonic() + _PATIENCE_S
        if self._pressing is not None:
            self._pressing.socket.end()
        for worker in self._workers.values():
            worker.end()
        for worker in self._workers.values():
            worker.close(patience_s=max(0.0, deadline - time.monotonic()))
        if self._pressing is not None:
            self._pressing.socket.close(patience_s=max(0.0, deadline - time.monotonic()))

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
            known = live.run.charts.histories
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


def _open(target: Target, home: Home, settings: AgentSettings, buttons: Buttons | None) -> Teller:
    return target.open_teller(home.state, settings, time.time(), buttons)


def run_news(live: LiveRun) -> RunNews:
    """How a run stands."""
    return RunNews(
        run=live.hello.run,
        name=live.hello.name,
        state=live.state,
        step=live.run.step,
        started=live.hello.started_s,
    )
