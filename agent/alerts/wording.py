"""Plain words for what happened."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from lossguard.agent.alerts.blocks import code, escaped
from lossguard.agent.alerts.records import RESOLVED, Click, Measured, Story
from lossguard.agent.feed import ActionLine
from lossguard.detectors import Symptom
from lossguard.detectors.advice import advice_on

_DEEDS = {
    "skip": "update skipped",
    "rollback": "rolled back",
    "lower_lr": "learning rate lowered",
    "checkpoint": "checkpoint written",
    "stop": "run stopped",
    "dump_stacks": "stacks read",
    "advise": "advised",
    "none": "left alone",
}
_ACUTE_FIRST_AID = (Symptom.DIVERGENCE, Symptom.NONFINITE, Symptom.LOSS_SPIKE, Symptom.LR_JUMP)


def number(value: float) -> str:
    """Four digits that count."""
    return f"{value:.4g}" if math.isfinite(value) else "NaN or Inf"


def measured(found: Measured | None) -> str:
    """A value against what was expected; empty where that is not known."""
    if found is None:
        return ""
    return f"{number(found.value)}, expected {number(found.low)} to {number(found.high)}"


def lasted(seconds: float) -> str:
    """A duration: ``42 s``, ``3 min 5 s``, ``2 h 10 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60),
                                      ("min", 60, "s", 1)):  # fmt: skip
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


def moment(time_s: float) -> str:
    """In the time zone of whoever reads it."""
    plain = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_s))
    return f"<!date^{int(time_s)}^{{date_short_pretty}} {{time_secs}}|{plain}>"


def deeds(actions: Sequence[ActionLine], most: int) -> list[str]:
    """What was done, the newest ``most`` of it; skipped updates are counted in one line."""
    skips = [action for action in actions if action.action == "skip"]
    others = [action for action in actions if action.action not in ("skip", "advise")]
    lines = [deed(action) for action in others[-most:]]
    if len(skips) == 1:
        lines.insert(0, deed(skips[0]))
    elif skips:
        first, last = min(a.step for a in skips), max(a.step for a in skips)
        lines.insert(0, f"{len(skips)} updates skipped, steps {first:,} to {last:,}")
    return lines


def deed(action: ActionLine) -> str:
    """One of them. ``result`` begins with ``done:`` or ``failed:``."""
    status, _, words = action.result.partition(": ")
    did = _DEEDS.get(action.action, action.action)
    if status == "failed":
        did, why = f"{_verb(action.action)} *failed*", words.removeprefix("why ")
        return f"step {action.step:,}: {did}" + (f": {escaped(why)}" if why else "")
    said = words.replace("_", " ") if status == "done" else action.result
    return f"step {action.step:,}: {did}" + (f" ({escaped(said)})" if said else "")


def answer(click: Click) -> str:
    """What became of a button that was pressed, and who pressed it."""
    who = f"<@{click.user}>" if click.user else "somebody in Slack"
    if click.status == "pending":
        return f"{_verb(click.action)}: asked for by {who}; the run has yet to answer"
    if click.status == "done" and click.action in ("ack", "mute"):
        return f"{escaped(click.result)}, by {who}"
    did = ActionLine(action=click.action, step=click.step, result=f"{click.status}: {click.result}")
    return (
        f"{deed(did)}, by {who}" if click.status == "done" else f"{deed(did)}; asked for by {who}"
    )


def _verb(action: str) -> str:
    return {"ack": "acknowledge", "rollback": "roll back"}.get(action, action.replace("_", " "))


def outcome(story: Story) -> str:
    """How trouble that is over has ended."""
    return RESOLVED if story.is_resolved else f"not resolved: {escaped(story.outcome)}"


def next_step(story: Story) -> str:
    """What to do now, with the command to type."""
    line = story.news.line
    show = code(f"lossguard show {line.id}")
    if story.is_resolved:
        return f"Nothing is urgent. All that is known: {show}"
    if story.ended is not None:
        return f"The run has ended with it. All that is known: {show}"
    advice = advice_on(line.symptom)
    said = [escaped(advice.fixes[0])] if advice is not None else []
    if line.symptom in _ACUTE_FIRST_AID and all(a.action != "rollback" for a in story.actions):
        said.append(f"Go back to a good state: {code(f'lossguard send {line.run} rollback')}")
    return "\n".join((*said, f"All that is known: {show}"))
