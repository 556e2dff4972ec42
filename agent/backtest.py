"""One log through the live path: what the detectors would have said."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lossguard.agent.backtest_evidence import Explanation, Witness
from lossguard.agent.feed import finite
from lossguard.agent.logs import Account, Log, Turn
from lossguard.agent.policy_settings import Policy, detectors_for
from lossguard.agent.run import Run
from lossguard.detectors import Detector, Finding, Severity

log = logging.getLogger(__name__)

_PROGRESS_EVERY = 512
_RUNS_KEPT = 16
"""Of the runs in one file, so many are kept for a picture."""


@dataclass(frozen=True)
class Backtest:
    """What the detectors had to say about one log."""

    file: str
    account: Account
    num_steps: int
    findings: Sequence[Finding]
    """One an episode, at its worst, with its end; in the order of detection."""
    explanations: Sequence[Explanation] = ()
    """For each finding, where they were asked for."""
    runs: Sequence[Run] = field(default=(), repr=False)
    """As they were at the end; one, unless several runs share the file."""

    def slim(self) -> Backtest:
        """Without the runs, to be sent to another process."""
        return replace(self, runs=())

    def at_least(self, severity: Severity) -> Backtest:
        """With the findings of this severity and those above it."""
        kept = [i for i, f in enumerate(self.findings) if f.severity.rank >= severity.rank]
        return replace(
            self,
            findings=[self.findings[i] for i in kept],
            explanations=[self.explanations[i] for i in kept] if self.explanations else (),
        )

    def lines(self) -> Iterator[dict[str, Any]]:
        """One object a finding, as ``--json`` prints them."""
        for i, finding in enumerate(self.findings):
            line: dict[str, Any] = {
                "file": self.file,
                "symptom": str(finding.symptom),
                "severity": str(finding.severity),
                "metric": finding.metric,
                "onset_step": finding.onset_step,
                "detected_step": finding.detected_step,
                "end_step": finding.end_step,
                "score": finite(finding.score),
                "message": finding.message,
            }
            if self.explanations:
                line["evidence"] = self.explanations[i].as_object()
            yield line


def backtest(
    source: Log,
    policy: Policy,
    *,
    explain: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Backtest:
    """Run the detectors over one log. Raises InputError when it cannot be read.

    Where the steps go back as after a restart from a checkpoint, the detectors forget what that
    undid, as they do after a rollback. Where another run begins, so do they. ``progress`` is told
    the share of the file that has been read.
    """
    judging = _Judging(source.name, policy, explain=explain)
    num_steps = 0
    for observation in source:
        if source.turn is Turn.ANEW:
            judging.begin_anew()
        elif source.turn is Turn.RESUME:
            judging.go_back_to(observation.step - 1)
        judging.take(observation)
        num_steps += 1
        if progress is not None and num_steps % _PROGRESS_EVERY == 0:
            progress(source.source.share_read)
    judging.end()
    return Backtest(
        file=source.name,
        account=source.account(),
        num_steps=num_steps,
        findings=[episode.finding for episode in judging.done],
        explanations=[e.explanation for e in judging.done if e.explanation is not None],
        runs=judging.runs,
    )


@dataclass
class _Episode:
    finding: Finding
    explanation: Explanation | None


class _Judging:
    """The runs of one log, one after the other, and what was found in them."""

    def __init__(self, name: str, policy: Policy, *, explain: bool) -> None:
        self._name = name
        self._policy = policy
        self._explain = explain
        self.runs: list[Run] = []
        self.done: list[_Episode] = []
        self.begin_anew()

    def begin_anew(self) -> None:
        """Another run begins."""
        if self.runs:
            self._close_run()
        self._detectors: list[Detector] = detectors_for(self._policy)
        self._run = Run(self._name, self._policy, self._detectors, time.time)
        self.runs = [*self.runs, self._run][-_RUNS_KEPT:]
        self._episodes: dict[tuple[str, str, int], _Episode] = {}
        self._witness = Witness() if self._explain else None

    def take(self, observation: Any) -> None:
        """One step."""
        if self._witness is not None:
            self._witness.see(observation)
        for finding in self._run.observe(observation).findings:
            key = (str(finding.symptom), finding.where, finding.onset_step)
            known = self._episodes.get(key)
            if known is None:
                explanation = self._witness.explain(finding) if self._witness is not None else None
                self._episodes[key] = _Episode(finding, explanation)
                continue
            known.finding = _worst(known.finding, finding)
            if known.explanation is not None:
                known.explanation.finding = known.finding

    def go_back_to(self, step: int) -> None:
        """The training was resumed from this step: what came after it is undone."""
        for detector in self._detectors:
            try:
                detector.rewind(step)
            except Exception:
                log.exception("detector %s of %s failed to go back to step %d",
                              detector.symptom, self._name, step)  # fmt: skip
        self._run.incidents.rolled_back(self._run.step)
        for episode in self._episodes.values():
            if episode.finding.end_step is None:
                episode.finding = replace(episode.finding, end_step=self._run.step)
        self._shelve()

    def end(self) -> None:
        """The log is over."""
        self._close_run()

    def _close_run(self) -> None:
        self._run.end()
        self._shelve()

    def _shelve(self) -> None:
        """Put away the episodes so far: what comes has new ones, though it may date them alike."""
        episodes = list(self._episodes.values())
        episodes.sort(key=lambda e: (e.finding.detected_step, str(e.finding.symptom)))
        self.done.extend(episodes)
        self._episodes = {}


def _worst(before: Finding, after: Finding) -> Finding:
    """One finding for the whole episode: the words of its worst moment, the first detection."""
    worse = after if after.severity.rank > before.severity.rank else before
    end = after.end_step if after.end_step is not None else before.end_step
    return replace(worse, detected_step=before.detected_step, end_step=end)
