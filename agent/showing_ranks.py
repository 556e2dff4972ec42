"""The processes of a run as viewers get them, and the snapshots that all of them hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from lossguard.agent.feed import RankLine, SnapshotLine
from lossguard.agent.live import LiveRun
from lossguard.agent.proven import last_before_trouble
from lossguard.probes import wire

_SHOWN = (
    "step_time", "data_wait", "forward_time", "backward_time", "optimizer_time", "rss",
    "gpu_utilization", "gpu_temperature", "gpu_power", "memory_allocated", "memory_total",
)  # fmt: skip
_MOST_RANKS = 128
_LONGEST = 200


def rank_lines(live: LiveRun, now: float) -> list[RankLine]:
    """One a rank, by what it said last; ``now`` is monotonic [s]."""
    lines = []
    for number, rank in sorted(live.ranks.items())[:_MOST_RANKS]:
        beat = rank.beat
        lines.append(
            RankLine(
                rank=number,
                host=rank.hello.host,
                pid=rank.hello.pid,
                step=max(rank.step, beat.step if beat else 0),
                heard_s=max(0.0, now - rank.heard_s),
                phase=beat.phase[:_LONGEST] if beat else "",
                at=beat.at[:_LONGEST] if beat else "",
                values={name: rank.last[name] for name in _SHOWN if name in rank.last},
            )
        )
    return lines


def snapshot_lines(live: LiveRun) -> list[SnapshotLine]:
    """The states that a rollback can go to, newest first: those that every rank holds."""
    told = [rank.beat for rank in live.ranks.values() if rank.beat is not None]
    if live.is_over or not told or len(told) < len(live.ranks):
        return []
    common = set.intersection(*({one.step for one in beat.snapshots} for beat in told))
    first = told[0]
    lines = {
        held.step: SnapshotLine(
            step=held.step,
            age_s=max(0.0, first.time_s - held.taken_s),
            bytes=sum(_bytes_of(beat.snapshots, held.step) for beat in told),
            place="disk" if held.on_disk else "memory",
            health=_health(live, held.step),
        )
        for held in reversed(first.snapshots[: wire.MOST_HELD])
        if held.step in common
    }
    return [lines[step] for step in sorted(lines, reverse=True)]


def _bytes_of(held: Iterable[wire.Held], step: int) -> int:
    return next((one.bytes for one in held if one.step == step), 0)


def _health(live: LiveRun, step: int) -> Literal["good", "unproven", "doubtful"]:
    """As a rollback sees it."""
    last_good = last_before_trouble(live.run.incidents.open)
    if last_good is not None and step > last_good:
        return "doubtful"
    return "good" if step <= live.run.proven_step else "unproven"
