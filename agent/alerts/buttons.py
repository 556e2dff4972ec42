"""The buttons below the root message of what goes on, and what is asked before they do anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from lossguard.agent.alerts.blocks import Block, cut
from lossguard.agent.alerts.causes import sameness
from lossguard.agent.alerts.press import MARK
from lossguard.agent.alerts.records import Story
from lossguard.agent.alerts.tickets import LIFETIME_S, Offer, Ticket, seal
from lossguard.agent.attention import NOTED
from lossguard.detectors import Symptom

_NO_LOOP = (Symptom.HANG, Symptom.PROCESS_EXIT)
"""There is nobody who could obey."""
_LABELS: dict[Offer, str] = {
    "ack": "Acknowledge",
    "mute": "Mute",
    "skip": "Skip an update",
    "rollback": "Roll back",
    "stop": "Stop",
}
_MOST_TITLE, _MOST_WORDS, _MOST_LABEL = 100, 300, 30


class Buttons(NamedTuple):
    """Made with a key, and shown only while somebody listens to them."""

    key: bytes
    is_live: Callable[[], bool | None]
    """Whether presses arrive; None where that is not known yet. From any thread."""

    def block(self, story: Story, now: float) -> Block | None:
        """Those that are left for this story; None for none. ``now``: wall clock [s]."""
        elements = [self._button(story, action, now) for action in offered(story)]
        return {"type": "actions", "elements": elements} if elements and self.is_live() else None

    def _button(self, story: Story, action: Offer, now: float) -> Block:
        line = story.news.line
        ticket = Ticket(
            run=line.run,
            incident=line.id,
            action=action,
            round=story.returns,
            onset=line.onset_step,
            expires=now + LIFETIME_S,
        )
        button: Block = {
            "type": "button",
            "text": _plain(_LABELS[action], _MOST_LABEL),
            "action_id": f"{MARK}{action}",
            "value": seal(ticket, self.key),
        }
        if action == "stop":
            button["style"] = "danger"
        if action not in NOTED:
            button["confirm"] = {
                "title": _plain(f"{_LABELS[action]}: {story.news.name}", _MOST_TITLE),
                "text": _plain(consequence(story, action), _MOST_WORDS),
                "confirm": _plain(_LABELS[action], _MOST_LABEL),
                "deny": _plain("Leave it", _MOST_LABEL),
            }
        return button


def offered(story: Story) -> Iterator[Offer]:
    """What makes sense for a story now, and was not asked for yet."""
    line = story.news.line
    if story.ended is not None or line.state != "open":
        return
    used = {
        click.action
        for click in story.clicks
        if (click.incident, click.round) == (line.id, story.returns)
    }
    if not line.acked and "ack" not in used:
        yield "ack"
    if not line.muted and "mute" not in used:
        yield "mute"
    if line.symptom in _NO_LOOP or "stop" in used:
        return
    is_acute = sameness(line) == "acute"
    if is_acute and "skip" not in used:
        yield "skip"
    if is_acute and story.news.acts and "rollback" not in used:  # who observes, has no snapshots
        yield "rollback"
    yield "stop"


def consequence(story: Story, action: Offer) -> str:
    """What will happen, for the dialog that asks whether it should."""
    name = cut(story.news.name, 60)
    onset = f"{story.news.line.onset_step:,}"
    if action == "skip":
        return (
            f"The next update of {name} is thrown away: weights and optimizer stay as they are. "
            "Training goes on with the batch after it."
        )
    if action == "rollback":
        return (
            f"{name} goes back to its newest state from before step {onset}: weights, optimizer, "
            "schedules. What it has learnt since is lost. Training goes on from there, with new "
            "data."
        )
    return (
        f"{name} ends before its next step and does not start again by itself. What it has learnt "
        "since its last checkpoint is lost."
    )


def _plain(text: str, most: int) -> Block:
    return {"type": "plain_text", "text": cut(text, most)}
