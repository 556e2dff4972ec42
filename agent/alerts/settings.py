"""The tables ``[slack]`` and ``[alerts]`` of agent.toml. No secret stands in them."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from lossguard.agent.alerts.quiet_hours import QuietHours

Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=604_800.0)]
SeverityName = Literal["info", "warning", "critical"]
_PERSON = re.compile(r"[UW][A-Z0-9]{2,20}")
_MENTION = re.compile(r"here|channel|everyone|[UWS][A-Z0-9]{2,20}")
_SECRET = re.compile(r"xox[a-z]-|xapp-|hooks\.slack\.com/")


class SlackSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where messages go."""

    channel: str = ""
    """Its id (C0123ABCD) or its name. Needed with a bot token; a webhook brings its own."""
    critical_channel: str = ""
    """Where critical incidents go instead."""
    mention_critical: tuple[str, ...] = ()
    """Who is called for a critical incident: ``here``, ``channel``, ids of users or groups."""
    token_file: str = ""
    """Holds the bot token, where LOSSGUARD_SLACK_BOT_TOKEN does not. Mode 0600."""
    webhook_url_file: str = ""
    """Holds the URL of an incoming webhook, where LOSSGUARD_SLACK_WEBHOOK_URL does not."""
    operators: tuple[str, ...] = ()
    """Ids of the people whose buttons are obeyed (U01AB23CD); empty: no message has buttons."""
    app_token_file: str = ""
    """Holds the app-level token that buttons take, where LOSSGUARD_SLACK_APP_TOKEN does not. Mode
    0600."""

    def __post_init__(self) -> None:
        for name in self.mention_critical:
            if _MENTION.fullmatch(name) is None:
                raise ValueError(
                    f"mention_critical: {name!r} is neither here nor channel, nor an id like U01AB3"
                )
        for name in self.operators:
            if _PERSON.fullmatch(name) is None:
                raise ValueError(f"operators: {name!r} is no id of a person, like U01AB23CD")
        files = (self.token_file, self.webhook_url_file, self.app_token_file)
        for value in (self.channel, self.critical_channel, *files):
            if _SECRET.search(value):
                raise ValueError(
                    "a secret stands in the settings: put it into a file of mode 0600 and its "
                    "path here, and have Slack issue a new one"
                )


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is told, and how often. Times in seconds."""

    severities: tuple[SeverityName, ...] = ("warning", "critical")
    """These get a thread of their own; the others a line in the digest."""
    digest_every_s: Seconds = 21_600.0
    """How often what had no thread is counted up in one message; 0 for never."""
    for_s: Seconds = 10.0
    """Less than critical trouble that is over sooner gets no thread."""
    keep_firing_s: Seconds = 60.0
    """Trouble counts as over after this long without it."""
    cool_down_s: Seconds = 900.0
    """The same trouble that comes back sooner goes on in its thread, and says so once."""
    quiet_hours: str = ""
    """``22:00-07:00``: less than critical trouble that begins in them waits for their end."""
    timezone: str = ""
    """Of the quiet hours, say ``Europe/Berlin``; that of the agent's machine where empty."""
    max_per_run_hour: Annotated[int, msgspec.Meta(ge=4, le=1000)] = 20
    """Messages about one run in any hour; a quarter of them is kept for critical incidents."""
    run_started: bool = False
    run_finished: bool = False
    run_died: bool = True

    def __post_init__(self) -> None:
        QuietHours.parse(self.quiet_hours, self.timezone)
