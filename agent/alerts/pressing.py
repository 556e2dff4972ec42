"""Buttons as a whole: the key they are made with, who hears them, and what becomes of a press."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from lossguard.agent.alerting import Orders, has_app_token
from lossguard.agent.alerts.buttons import Buttons
from lossguard.agent.alerts.clicks import Clicks
from lossguard.agent.alerts.records import News
from lossguard.agent.alerts.settings import SlackSettings
from lossguard.agent.alerts.socket_mode import SocketMode
from lossguard.agent.alerts.tickets import key_at
from lossguard.agent.registry import Registry
from lossguard.home import Home

log = logging.getLogger(__name__)


class Pressing:
    """Raises ConfigError where the key cannot be kept."""

    def __init__(
        self,
        home: Home,
        settings: SlackSettings,
        registry: Registry,
        orders: Orders,
        tell: Callable[[Sequence[News]], None],
    ) -> None:
        """``tell``: where to say what becomes of a press."""
        key = key_at(home.state / "slack-buttons.key")
        clicks = Clicks(key, settings.operators, registry, orders, tell)
        self.socket = SocketMode(settings, clicks.hand_over)
        self.buttons = Buttons(key, self.socket.is_live)
        self.tick = clicks.tick
        """In the agent's loop, a few times a second."""


def is_wanted(settings: SlackSettings) -> bool:
    """Whether somebody may press buttons, and the agent can hear it; else says what is missing."""
    has_token = has_app_token(settings)
    if bool(settings.operators) != has_token:
        lacks = "no app token" if settings.operators else "nobody in [slack] operators"
        log.warning("messages in Slack have no buttons: there is %s", lacks)
    return has_token and bool(settings.operators)
