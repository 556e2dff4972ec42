"""Who is told: Slack, a webhook, and each URL of Apprise's, by what is set up.

Each is told by a worker with a desk and a journal of its own, under the same rules of fatigue: one
that is slow, full or gone holds up none of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lossguard.agent import alerting
from lossguard.agent.alerts.buttons import Buttons
from lossguard.agent.alerts.journal import Place
from lossguard.agent.alerts.rendering import Outgoing, Post
from lossguard.agent.alerts.slack import transport_for
from lossguard.agent.alerts.through_apprise import ThroughApprise, label_of, urls_of
from lossguard.agent.alerts.transport import NotNow, Transport
from lossguard.agent.alerts.webhook import Webhook
from lossguard.agent.alerts.worker import Teller, Words
from lossguard.errors import ConfigError

if TYPE_CHECKING:
    from lossguard.agent.settings import AgentSettings


class Target(NamedTuple):
    """One of them."""

    name: str
    """In the log, in metrics, and of its journal."""
    transport: Transport
    words: Words | None = None
    """How it puts what is to be said; None: as Slack does."""
    trial: Callable[[float], Post] | None = None
    """A message to see whether messages arrive, of wall clock [s]; None: as Slack's is."""

    def open_teller(
        self, state: Path, settings: AgentSettings, now: float, buttons: Buttons | None = None
    ) -> Teller:
        """``buttons``: for messages that can have them. Raises ConfigError where its journal cannot
        be used."""
        path = state / ("alerts.db" if self.name == "slack" else f"alerts-{self.name}.db")
        slack, alerts = settings.slack, settings.alerts
        return Teller(path, self.transport, slack, alerts, now, words=self.words, buttons=buttons)


def targets_of(settings: AgentSettings) -> list[Target]:
    """All that are set up. What is set up by half is among them, and fails aloud."""
    targets = []
    if alerting.wants_slack(settings.slack):
        targets.append(Target("slack", transport_for(settings.slack)))
    if alerting.wants_webhook(settings.webhook):
        webhook = Webhook(settings.webhook)
        targets.append(Target("webhook", webhook, webhook.render, webhook.trial))
    if alerting.wants_apprise(settings.apprise):
        try:
            urls = urls_of(settings.apprise)
        except ConfigError as error:
            targets.append(Target("apprise", _Unusable(f"{error}; then restart the agent")))
            urls = []
        for url in urls:
            through = ThroughApprise(url)
            targets.append(Target(label_of(url), through, through.render, through.trial))
    return targets


class _Unusable:
    """Stands for what cannot be told at all, so that this shows where it would be told from."""

    has_threads = False

    def __init__(self, why: str) -> None:
        self._why = why

    def connect(self) -> str:
        raise NotNow(self._why, is_setup=True)

    def channel_for(self, *, is_critical: bool) -> str:
        return "nowhere"

    def deliver(self, what: Outgoing, channel: str, place: Place | None) -> Place | None:
        raise NotNow(self._why, is_setup=True)
