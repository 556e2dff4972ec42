"""What Slack says when somebody presses a button, as far as anybody here wants to know."""

from __future__ import annotations

from typing import Any

import msgspec

MARK = "lossguard."
"""What the names of our buttons begin with."""


class Press(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing of it is to be trusted but that Slack says so."""

    user: str
    channel: str
    value: str
    moment: str
    """When, in Slack's own words: the same for the same press, however often it is delivered."""

    @property
    def id(self) -> tuple[str, str]:
        return self.user, self.moment


class _Named(msgspec.Struct):
    id: str


class _Action(msgspec.Struct):
    action_id: str
    value: str = ""
    action_ts: str = ""


class _Payload(msgspec.Struct, tag_field="type", tag="block_actions"):
    user: _Named
    channel: _Named
    actions: list[_Action]


def press_of(envelope: dict[str, Any]) -> Press | None:
    """None for what is no button of ours."""
    try:
        payload = msgspec.convert(envelope.get("payload"), _Payload)
    except msgspec.ValidationError:
        return None
    action = next((one for one in payload.actions if one.action_id.startswith(MARK)), None)
    if action is None:
        return None
    return Press(
        user=payload.user.id,
        channel=payload.channel.id,
        value=action.value,
        moment=action.action_ts,
    )
