"""Whether this agent tells people, and whom: by its settings and its environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from lossguard.agent.alerts.other_settings import APPRISE, URL, AppriseSettings, WebhookSettings
from lossguard.agent.alerts.secrecy import APP_TOKEN, TOKEN, WEBHOOK
from lossguard.agent.alerts.settings import SlackSettings
from lossguard.agent.audit import AuditLog
from lossguard.agent.feed import FeedMessage, SendCommand
from lossguard.agent.peers import Peer
from lossguard.agent.registry import Registry
from lossguard.agent.settings import AgentSettings
from lossguard.home import Home

if TYPE_CHECKING:
    from lossguard.agent.alerts.notifier import Notifier


class Orders(NamedTuple):
    """How what people ask for by an alert is done: the same way as what they type."""

    give: Callable[[SendCommand, Peer], FeedMessage]
    audit: AuditLog


def start_alerts(
    home: Home, settings: AgentSettings, registry: Registry, orders: Orders
) -> Notifier | None:
    """Begin to tell; None, and nothing is loaded for it, where nobody is to be told.

    Raises ConfigError for settings that make no sense.
    """
    if not is_wanted(settings):
        return None
    from lossguard.agent.alerts.notifier import Notifier
    from lossguard.agent.alerts.targets import targets_of

    return Notifier(home, settings, targets_of(settings), registry, orders)


def is_wanted(settings: AgentSettings) -> bool:
    """Whether anybody is to be told. What is said by half is taken up, and fails aloud."""
    return (
        wants_slack(settings.slack)
        or wants_webhook(settings.webhook)
        or wants_apprise(settings.apprise)
    )


def wants_slack(slack: SlackSettings) -> bool:
    named = (slack.channel, slack.token_file, slack.webhook_url_file)
    return any(named) or any(os.environ.get(name) for name in (TOKEN, WEBHOOK))


def has_app_token(slack: SlackSettings) -> bool:
    return bool(slack.app_token_file or os.environ.get(APP_TOKEN))


def wants_webhook(webhook: WebhookSettings) -> bool:
    return bool(webhook.url_file or os.environ.get(URL))


def wants_apprise(apprise: AppriseSettings) -> bool:
    return bool(apprise.urls_file or os.environ.get(APPRISE))
