"""What came out of ``lossguard demo``, for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lossguard.agent import feed

CLOSE = 0.05
"""The guarded run is saved if its validation loss is within this fraction of the clean twin's."""


@dataclass(frozen=True)
class Outcome:
    """What the three trainings came to. Losses in nats per character, NaN where not finite."""

    steps: int
    clean: float
    bare: float
    guarded: float
    accidents: list[str]
    """What was done to the bare and the guarded run, as they said themselves."""
    incidents: list[feed.IncidentLine]

    def _close(self, loss: float) -> bool:
        return loss <= self.clean * (1 + CLOSE)

    @property
    def saved(self) -> bool:
        return self._close(self.guarded) and not self._close(self.bare)

    @property
    def actions(self) -> list[feed.ActionLine]:
        """Those of all incidents by step; what served two incidents stands once."""
        lines = {(a.step, a.action, a.result): a for i in self.incidents for a in i.actions}
        return [lines[key] for key in sorted(lines)]

    def as_json(self) -> dict[str, Any]:
        """For ``json.dumps``: null stands for what is not finite."""
        return {
            "clean_val_loss": _plain(self.clean),
            "bare_val_loss": _plain(self.bare),
            "guarded_val_loss": _plain(self.guarded),
            "incidents": [_plain(incident) for incident in self.incidents],
            "actions": [_plain(action) for action in self.actions],
        }

    def as_text(self) -> str:
        incidents = [
            [i.symptom, i.severity, str(i.onset_step), str(i.detected_step), i.where or i.metric]
            for i in self.incidents
        ]
        actions = [[a.action, str(a.step), a.result] for a in self.actions]
        losses = [
            ["bare", _loss(self.bare), self._versus_clean(self.bare)],
            ["guarded", _loss(self.guarded), self._versus_clean(self.guarded)],
            ["clean twin", _loss(self.clean), ""],
        ]
        return "\n".join(
            [
                f"{self.steps} steps each, same seed, same data; in the bare and the guarded run:",
                *(f"  {accident}" for accident in self.accidents),
                "",
                _table(["incident", "severity", "onset", "detected", "where"], incidents),
                "",
                _table(["action", "step", "result"], actions),
                "",
                _table(["run", "final val loss", "against clean"], losses),
                "",
                self.conclusion,
            ]
        )

    @property
    def conclusion(self) -> str:
        """One sentence."""
        bare, guarded = self._versus_clean(self.bare), self._versus_clean(self.guarded)
        if self.saved:
            return (
                f"Guarded, the run came through all three accidents ({guarded} against the clean "
                f"twin); unguarded, it did not ({bare})."
            )
        if self._close(self.bare):
            return f"The accidents did not hurt the bare run ({bare}): nothing was shown."
        return (
            f"Lossguard did not save this run: guarded it ended at {guarded} against the clean "
            f"twin, unguarded at {bare}; more than {CLOSE:.0%} is too far."
        )

    def _versus_clean(self, loss: float) -> str:
        return f"{loss / self.clean - 1:+.1%}" if math.isfinite(loss) else "NaN"


def _loss(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "NaN"


def _plain(value: Any) -> Any:
    """The same in JSON's types."""
    if isinstance(value, msgspec.Struct):
        return _plain(msgspec.structs.asdict(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under a head; the last one is left ragged."""
    rows = rows or [["none", *[""] * (len(head) - 1)]]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)
