"""What happened, in one paragraph that a person can forward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from lossguard.agent.report.curves import Curve
from lossguard.agent.report.gathering import RunData
from lossguard.agent.report.stories import severity_rank
from lossguard.agent.report.wording import counted, duration, joined, number, steps
from lossguard.detectors.advice import title_of

_NAMED = 4
"""Incidents that are named one by one; more are counted by what they are."""

_ENDS = {
    "running": "is running and has come to",
    "finished": "finished after",
    "failed": "ended with an error after",
    "stopped": "was stopped after",
    "died": "died without a word after",
    "gone": "is gone, and no agent saw how it ended; the last that is known of it are",
}


class Fact(NamedTuple):
    """A number to see at once."""

    label: str
    value: str
    note: str = ""


def paragraph(data: RunData) -> str:
    """The whole story in plain sentences."""
    return " ".join(_sentences(data))


def _sentences(data: RunData) -> Iterator[str]:
    name, extent = data.hello.name, data.extent
    if not extent.last and not data.curves:
        ended = _ENDS.get(data.state, data.state).split(" after")[0].split(" and has")[0]
        yield f"The run {name} {ended.split(',')[0]}; no step of it has been measured."
    else:
        yield (
            f"The run {name} {_ENDS.get(data.state, data.state)} {counted(extent.last, 'step')}"
            f"{_updates(data)}, in {duration(extent.seconds)}."
        )
    yield from _losses(data)
    yield from _troubles(data)


def _updates(data: RunData) -> str:
    applied = data.extent.applied
    return f" ({counted(applied, 'update')} in effect)" if 0 <= applied < data.extent.last else ""


def _losses(data: RunData) -> Iterator[str]:
    loss, best = data.curves.get("loss"), best_validation(data)
    if loss is not None and loss.lowest is not None:
        smooth = loss.smoothed(tuple(at for at, _ in data.saved.rollbacks))
        low_step, low = loss.lowest
        yield (
            f"The training loss went from {number(float(smooth[0]))} to "
            f"{number(float(smooth[-1]))} (smoothed), with its lowest value {number(low)} at step "
            f"{low_step:,}."
        )
    if best is not None:
        yield f"The best validation loss was {number(best[1])}, at step {best[0]:,}."


def best_validation(data: RunData) -> tuple[int, float] | None:
    """(step, loss)"""
    curve: Curve | None = data.curves.get("val_loss")
    return curve.lowest if curve is not None else None


def _troubles(data: RunData) -> Iterator[str]:
    watched = (
        "Lossguard only watched" if data.hello.policy == "observe"
        else f"Lossguard, under the policy {data.hello.policy},"
    )  # fmt: skip
    if not data.incidents:
        end = "; it saw nothing wrong." if data.hello.policy == "observe" else " saw nothing wrong."
        yield watched + end
        return
    saw = " and saw " if data.hello.policy == "observe" else " saw "
    yield f"{watched}{saw}{counted(len(data.incidents), 'incident')}: {_named(data)}."
    yield _done(data)
    still_open = [one for one in data.incidents if one.state == "open"]
    if still_open:
        first = still_open[-1]
        yield (
            f"{counted(len(still_open), 'incident')} still open, the latest: "
            f"{_lower(title_of(first.symptom))} since step {first.onset_step:,}, {first.message}."
        )
    else:
        yield "All of it is over."


def _named(data: RunData) -> str:
    if len(data.incidents) <= _NAMED:
        return joined([
            f"{_lower(title_of(one.symptom))} ({one.severity}, step {one.onset_step:,})"
            for one in data.incidents
        ])  # fmt: skip
    worst = [one for one in data.incidents if severity_rank(one) == 2]
    kinds = Counter(one.symptom for one in data.incidents).most_common(_NAMED)
    named = joined([f"{_lower(title_of(kind))} ({count} times)" for kind, count in kinds])
    return f"{named}; {len(worst)} of them critical" if worst else named


def _done(data: RunData) -> str:
    parts = []
    if data.extent.num_skips:
        parts.append(f"dropped {counted(data.extent.num_skips, 'update')}")
    backs = data.saved.rollbacks
    if backs:
        undone = f", undoing {_undone(backs)}" if len(backs) <= 2 else ""
        times = "once" if len(backs) == 1 else f"{len(backs)} times"
        parts.append(f"rolled the run back {times}{undone}")
    others = Counter(
        one.action for one in data.commands
        if one.status == "done" and one.action not in ("rollback", "skip", "dump_stacks")
    )  # fmt: skip
    parts += [
        f"carried out {action.replace('_', ' ')}" + (f" {count} times" if count > 1 else "")
        for action, count in others.items()
    ]
    return f"It {joined(parts)}." if parts else "It changed nothing in the run."


def _undone(backs: list[tuple[int, int]]) -> str:
    return joined([steps(to + 1, at) for at, to in backs])


def _lower(title: str) -> str:
    """Within a sentence; NaN and GPU stay as they are."""
    return (
        title if title[1:2].isupper() or title.startswith("NaN") else title[:1].lower() + title[1:]
    )


def facts(data: RunData) -> list[Fact]:
    """For the top of the page."""
    extent, best = data.extent, best_validation(data)
    loss = data.curves.get("loss")
    last = loss.last if loss is not None else None
    num_open = sum(one.state == "open" for one in data.incidents)
    found = [
        Fact("steps", f"{extent.last:,}", _rate(data)),
        Fact("time", duration(extent.seconds)),
    ]
    if last is not None:
        found.append(Fact("last loss", number(last[1])))
    if best is not None:
        found.append(Fact("best validation", number(best[1]), f"at step {best[0]:,}"))
    incidents = f"{num_open} open" if num_open else "all over" if data.incidents else ""
    found.append(Fact("incidents", str(len(data.incidents)), incidents))
    found.append(Fact("updates dropped", f"{extent.num_skips:,}"))
    found.append(Fact("rollbacks", f"{len(data.saved.rollbacks):,}"))
    return found


def _rate(data: RunData) -> str:
    extent = data.extent
    if extent.count < 2 or not extent.seconds:
        return ""
    return f"{(extent.count - 1) / extent.seconds:.3g} a second"
