"""The snapshot that all ranks go back to: the newest fitting one that every rank still holds."""

from __future__ import annotations

import msgspec

from lossguard.probes import wire
from lossguard.probes.orders import OrderFailed
from lossguard.probes.snapshots import Snapshot, SnapshotRing
from lossguard.probes.together import Together


class _Said(msgspec.Struct):
    """By one rank of one command: what it could go back to, or why it cannot."""

    steps: list[int]
    why: str = ""


class CommonSnapshots:
    """Chooses by what all ranks have said before they voted, so that all choose the same."""

    def __init__(self, ring: SnapshotRing, together: Together) -> None:
        self._ring = ring
        self._together = together
        self._promised: dict[str, dict[int, Snapshot]] = {}

    def says(self, command: wire.Command, refuses: str) -> str:
        """What the other ranks must know of this one; what is said is held until it is used."""
        held = {
            step: found
            for step in self._ring.steps
            if (found := self._ring.newest_before(step)) is not None
        }
        self._promised = {command.command: held}
        return msgspec.json.encode(_Said(list(held), refuses)).decode()

    def choose(self, command: wire.Command, step: int, deeper: int) -> Snapshot:
        """Of the snapshots at or before ``step`` that all hold the newest, or one that is
        ``deeper`` places older. Raises OrderFailed, then on every rank."""
        promised = self._promised.pop(command.command, {})
        told = self._together.told(command.command)
        said = [msgspec.json.decode(words, type=_Said) for words in told]
        for rank, one in enumerate(said):
            if one.why:
                raise OrderFailed(f"rank {rank}: {one.why}")
        common = sorted(set.intersection(*(set(one.steps) for one in said)))
        fitting = [s for s in common if s <= step]
        if not fitting:
            have = ", ".join(map(str, common)) or "none"
            raise OrderFailed(
                f"no snapshot from before step {step + 1} that all ranks hold (all hold: {have})"
            )
        return promised[fitting[max(0, len(fitting) - 1 - deeper)]]
