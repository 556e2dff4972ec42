"""Tables of a report, in words, for whatever format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from lossguard.agent.report.gathering import RunData
from lossguard.agent.report.stories import deeds_of, plain_result
from lossguard.agent.report.wording import clock

_MOST_ACTIONS = 300
_KNOWN = frozenset((
    "run", "protocol", "name", "rank", "world_size", "pid", "host", "started_s", "policy", "script",
    "versions", "policy_text",
))  # fmt: skip


class Row(NamedTuple):
    """Cells of a table; a number stands for the incident of that number."""

    cells: tuple[str | int, ...]


def actions_of(data: RunData, numbers: dict[str, int]) -> list[Row]:
    """(step, action, why, how it went), in the order of steps, the newest 300.

    ``numbers`` has the number of each incident that the report tells.
    """
    found: list[tuple[int, Row]] = []
    for incident in data.incidents:
        skips = [action for action in incident.actions if action.action == "skip"]
        for deed in deeds_of(skips):
            why = numbers.get(incident.id, incident.symptom)
            row = Row(
                (deed.when.removeprefix("steps ").removeprefix("step "), "skip", why, deed.result)
            )
            found.append((skips[0].step, row))
    for one in data.commands:
        why = numbers.get(one.incident, "by hand" if not one.incident else one.incident)
        result = plain_result(one.result)
        went = result if one.status == "done" else f"{one.status}: {result}".rstrip(": ")
        row = Row((f"{one.step:,}" if one.step else "-", one.action.replace("_", " "), why, went))
        found.append((one.step, row))
    found.sort(key=lambda item: item[0])
    return [row for _, row in found[-_MOST_ACTIONS:]]


def environment_of(data: RunData) -> Iterator[tuple[str, str]]:
    """(what, which)"""
    hello = data.hello
    yield "run", hello.run
    yield "started", clock(hello.started_s)
    yield "host, process", f"{hello.host}, {hello.pid}"
    yield "ranks", str(hello.world_size)
    yield "policy", hello.policy
    yield from hello.versions.items()
    # Whatever else a probe tells about where it runs.
    for name, value in msgspec.structs.asdict(hello).items():
        if name not in _KNOWN and value:
            yield from _flat(name, value)


def _flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(str(key), part)
    else:
        joined = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        yield name.replace("_", " "), joined


def damage_of(data: RunData) -> list[str]:
    """What could not be read, in words."""
    found = [f"{count:,} of the {what}" for what, count in data.damaged.items()]
    if until := data.extent.coarse_until:
        found.append(f"the steps before {until:,} one by one: of these only the extremes are kept")
    return found
