"""What anything that sends messages promises, and how it says that it could not."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from lossguard.agent.alerts.journal import Place
from lossguard.agent.alerts.rendering import Outgoing
from lossguard.agent.alerts.secrecy import redacted

_ASK_A_PERSON_S = 300.0
"""What only a person can put right is tried again so often [s]."""


class NotNow(Exception):
    """It could not be sent, and is to be tried again."""

    def __init__(
        self, why: str, *, after_s: float | None = None, channel: str = "", is_setup: bool = False
    ) -> None:
        super().__init__(redacted(why))
        self.after_s = _ASK_A_PERSON_S if is_setup else after_s
        """How long to wait [s]; None to wait longer each time."""
        self.channel = channel
        """The only channel that is concerned; empty for all."""
        self.is_setup = is_setup
        """Whether only a person can put it right."""


class Never(Exception):
    """It will not be taken, however often it is tried."""

    def __init__(self, why: str) -> None:
        super().__init__(redacted(why))


class Transport(Protocol):
    """Used by one thread."""

    has_threads: bool
    """Whether messages can be answered and changed."""

    def connect(self) -> str:
        """Whom it speaks as, for the log. Raises NotNow."""

    def channel_for(self, *, is_critical: bool) -> str:
        """Where a new message goes."""

    def deliver(self, what: Outgoing, channel: str, place: Place | None) -> Place | None:
        """Send it; where it stands now, if it can be answered. ``place``: of the message that is
        answered or changed. Raises NotNow and Never."""


class NotifierState(msgspec.Struct, frozen=True, kw_only=True):
    """How alerting does, for whoever asks."""

    state: Literal["starting", "ok", "waiting", "failing"]
    """``waiting``: Slack asked for patience, or cannot be reached; ``failing``: a person has to do
    something."""
    why: str = ""
    sent: int = 0
    """Since the agent began."""
    waiting: int = 0
    last_refusal: str = ""
    """Why a message was not taken, the last that was not."""
