"""One open episode at a time, of a kind: opened, escalated, and ended once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossguard.detectors.base import Finding, Severity
from lossguard.detectors.episode import Episode
from lossguard.detectors.rewinding import RewindingDetector


class EpisodicDetector(RewindingDetector):
    """A detector with at most one open episode.

    Where a symptom shows in several kinds, the episode has one of them. A kind that is no more
    severe than the open one goes unmentioned; a more severe one ends it and opens its own at its
    next hit, so that each episode keeps the onset of its own cause.
    """

    def __init__(self) -> None:
        super().__init__()
        self._episode: Episode | None = None
        self._kind = ""
        self._metric = self.inputs[0]

    @property
    def open_kind(self) -> str:
        """The kind of the open episode, or nothing."""
        return self._kind if self._episode is not None else ""

    def hit(
        self,
        step: int,
        severity: Severity,
        score: float,
        message: str,
        *,
        kind: str = "",
        onset: int | None = None,
        metric: str | None = None,
        evidence: Mapping[str, float] | None = None,
    ) -> Finding | None:
        """Take in a sign of trouble: opens an episode, escalates it, or lets it go on."""
        episode = self._episode
        if episode is not None and kind != self._kind:
            return self.end(step, message) if severity.rank > episode.severity.rank else None
        if episode is None:
            self._kind = kind
            self._metric = metric or self.inputs[0]
            episode = Episode(step if onset is None else min(onset, step), severity, step, score)
            self._episode = episode
        else:
            episode.hit(step, score)
            if severity.rank <= episode.severity.rank:
                return None
            episode.severity = severity
        return self._finding(step, message, evidence)

    def calm(
        self, step: int, needed: int, message: str, evidence: Mapping[str, float] | None = None
    ) -> Finding | None:
        """Take in a sign of health: the end of the episode after ``needed`` of them in a row."""
        episode = self._episode
        if episode is None:
            return None
        episode.calm += 1
        return self.end(step, message, evidence) if episode.calm >= needed else None

    def end(
        self, step: int, message: str, evidence: Mapping[str, float] | None = None
    ) -> Finding | None:
        """The end of the open episode, if there is one."""
        if self._episode is None:
            return None
        finding = self._finding(step, message, evidence, end=self._episode.last_hit)
        self._episode = None
        return finding

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        episode = self._episode.state() if self._episode is not None else None
        return {"episode": episode, "kind": self._kind, "metric": self._metric}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        self._episode = Episode.from_state(saved["episode"]) if saved["episode"] else None
        self._kind = saved["kind"]
        self._metric = saved["metric"]

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        self._episode = None

    def _finding(
        self, step: int, message: str, evidence: Mapping[str, float] | None, end: int | None = None
    ) -> Finding:
        episode = self._episode
        assert episode is not None
        return Finding(
            symptom=self.symptom,
            severity=episode.severity,
            metric=self._metric,
            onset_step=episode.onset_step,
            detected_step=step,
            score=episode.score,
            message=message,
            end_step=end,
            evidence=evidence or {},
        )
