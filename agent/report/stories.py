"""Incidents as stories: what, since when, why, what was done, and whether it is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lossguard.agent.feed import ActionLine
from lossguard.agent.incidents import ACUTE, KeptIncident
from lossguard.agent.report.bundles import Bundle, Excerpt
from lossguard.agent.report.gathering import RunData
from lossguard.agent.report.recovery import back_at
from lossguard.agent.report.wording import clock, counted, number, steps
from lossguard.detectors.advice import advice_on, title_of

_TOLD = 60
"""Incidents that are told: the most severe, of these the newest."""
_RANKS = ("info", "warning", "critical")


@dataclass(frozen=True)
class Deed:
    """One or more actions of a kind in a row. ``when`` says the steps."""

    action: str
    when: str
    result: str


@dataclass(frozen=True)
class Story:
    """One incident in words, for whatever format; plain text but for the backticks of advice."""

    number: int
    """Its place in the report, from 1; also on the plots."""
    incident: KeptIncident
    title: str
    advice_in: int
    """The first incident in the report with the same symptom, which has the advice on it."""
    meaning: str
    when: str
    outcome: str
    deeds: tuple[Deed, ...]
    evidence: tuple[tuple[str, str], ...]
    causes: tuple[str, ...]
    fixes: tuple[str, ...]
    layers: tuple[tuple[str, ...], ...]
    texts: tuple[Excerpt, ...]
    folder: str

    @property
    def severity(self) -> str:
        """What is unknown is critical."""
        return _RANKS[severity_rank(self.incident)]


def stories_of(data: RunData) -> list[Story]:
    """The incidents worth telling, in the order of their onsets."""
    by_severity = sorted(data.incidents, key=lambda one: (severity_rank(one), one.opened))
    told = sorted(by_severity[-_TOLD:], key=lambda one: (one.onset_step, one.opened))
    first: dict[str, int] = {}
    return [
        _story(data, i, incident, first.setdefault(incident.symptom, i))
        for i, incident in enumerate(told, start=1)
    ]


def left_out(data: RunData, stories: Sequence[Story]) -> str:
    """That there are more incidents than are told; empty where there are not."""
    others = len(data.incidents) - len(stories)
    if others <= 0:
        return ""
    return f"The {len(stories)} worst are told; {counted(others, 'lesser one')} left out."


def severity_rank(incident: KeptIncident) -> int:
    """0 to 2; what is unknown is critical."""
    return _RANKS.index(incident.severity) if incident.severity in _RANKS else 2


def _story(data: RunData, place: int, incident: KeptIncident, advice_in: int) -> Story:
    advice = advice_on(incident.symptom)
    bundle = data.bundles.get(incident.id, Bundle())
    return Story(
        number=place,
        incident=incident,
        title=title_of(incident.symptom),
        advice_in=advice_in,
        meaning=advice.meaning if advice is not None else "",
        when=_when(incident),
        outcome=_outcome(data, incident),
        deeds=tuple(deeds_of(incident.actions)),
        evidence=tuple(
            (name.replace("_", " "), number(value)) for name, value in incident.evidence.items()
        ),
        causes=advice.causes if advice is not None else (),
        fixes=advice.fixes if advice is not None else (),
        layers=bundle.layers,
        texts=bundle.texts,
        folder=bundle.folder,
    )


def _when(incident: KeptIncident) -> str:
    began, noticed = incident.onset_step, incident.detected_step
    words = f"Began at step {began:,}"
    late = noticed - began
    words += (
        ", noticed in the same step" if late <= 0 else f", noticed {counted(late, 'step')} later"
    )
    if incident.opened:
        words += f" ({clock(incident.opened)})"
    if incident.end_step is None:
        return f"{words}; still open."
    return f"{words}; over at step {incident.end_step:,}."


def _outcome(data: RunData, incident: KeptIncident) -> str:
    """Whether it is cured, as far as the record tells."""
    if incident.state == "open":
        over = data.state in ("finished", "failed", "stopped", "died", "gone")
        return "It was not over when the run ended." if over else "It is not over."
    # Of what hits a run at once the loss shows when it is over.
    if incident.symptom not in ACUTE or "loss" not in data.curves:
        return "It is over."
    after = max([incident.end_step or 0, *(deed.step for deed in incident.actions)])
    back = back_at(data.curves["loss"], incident, after)
    if back is None:
        return "It is over; that the loss came back to where it was before is not on record."
    return f"It is over: by step {back:,} the loss was back where it was before."


def deeds_of(actions: Sequence[ActionLine]) -> Iterator[Deed]:
    """Actions in their order; the same ones in a row, with the same result, are one."""
    row: list[ActionLine] = []
    for action in actions:
        if row and (action.action, action.result) != (row[0].action, row[0].result):
            yield _deed(row)
            row = []
        row.append(action)
    if row:
        yield _deed(row)


def _deed(row: Sequence[ActionLine]) -> Deed:
    times = f" ({len(row)} times)" if len(row) > 1 else ""
    first, last = min(a.step for a in row), max(a.step for a in row)
    return Deed(row[0].action, steps(first, last) + times, plain_result(row[0].result))


def plain_result(result: str) -> str:
    """What came of an action, without what goes without saying."""
    return result.removeprefix("done: ").replace("restored_step", "restored step")
