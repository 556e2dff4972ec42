"""What people say about incidents: seen (``ack``), and not to be told of again (``mute``).

Neither is an order to the training: the agent notes it, also for a run that is over. Both are kept
across its restarts. What is acknowledged or muted is listed as ever and calls nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from lossguard.agent.incidents import Incident, Incidents
from lossguard.agent.verbs import MOST_HOURS
from lossguard.detectors import Symptom

NOTED = frozenset({"ack", "mute"})
"""The actions that no loop has to carry out."""

Args: TypeAlias = Mapping[str, "float | int | str"]


def note(incidents: Incidents, action: str, args: Args, now_s: float) -> tuple[str, list[Incident]]:
    """Take in what was said; in words what came of it, and the incidents it changed.

    ``ack``: ``incident`` (its id, or its number; without: all that are open), ``undo=1``.
    ``mute``: ``incident`` or ``symptom``, ``hours`` (without: as long as the run is known),
    ``undo=1``. Raises ValueError for what does not exist. ``now_s`` is the wall clock [s].
    """
    undo = bool(args.get("undo", 0))
    if action == "ack":
        return _acknowledge(incidents, args, 0.0 if undo else now_s)
    symptom = _symptom(incidents, args)
    hours = _hours(args)
    if undo:
        incidents.mutes.pop(symptom, None)
        words = f"{symptom} calls again"
    else:
        incidents.mutes[symptom] = now_s + 3600 * hours if hours else float("inf")
        span = f"for {hours:g} h" if hours else "in this run"
        words = f"{symptom} calls nobody {span}"
    return words, [one for one in incidents.all if str(one.lead.symptom) == symptom]


def _acknowledge(incidents: Incidents, args: Args, time_s: float) -> tuple[str, list[Incident]]:
    if "incident" in args:
        chosen = [_named(incidents, args["incident"])]
    else:
        chosen = [one for one in incidents.open if bool(one.acked_s) != bool(time_s)]
    for incident in chosen:
        incident.acked_s = time_s
    verb = "acknowledged" if time_s else "no longer acknowledged"
    numbers = ", ".join(f"{one.lead.symptom} ({one.number})" for one in chosen[:8])
    return f"{verb}: {numbers or 'nothing, none is open'}", chosen


def _named(incidents: Incidents, name: float | int | str) -> Incident:
    wanted = str(name)
    for incident in incidents.all:
        if wanted in (incident.id, incident.number):
            return incident
    raise ValueError(f"there is no incident {wanted[:80]!r} in this run; `lossguard incidents`")


def _symptom(incidents: Incidents, args: Args) -> str:
    if "incident" in args:
        return str(_named(incidents, args["incident"]).lead.symptom)
    name = str(args.get("symptom", ""))
    if name not in {str(symptom) for symptom in Symptom}:
        raise ValueError(
            f"mute wants incident=ID or symptom=NAME; there is no symptom {name!r:.60}"
        )
    return name


def _hours(args: Args) -> float:
    try:
        hours = float(args.get("hours", 0.0))
    except ValueError:
        hours = -1.0
    if not 0.0 <= hours <= MOST_HOURS:
        raise ValueError(f"hours must be from 0 to {MOST_HOURS:g}, got {args['hours']!r:.40}")
    return hours
