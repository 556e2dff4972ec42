"""``lossguard backtest``: the live path, driven from a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lossguard.agent.feed import finite
from lossguard.agent.incidents import Incidents
from lossguard.agent.policy import find_policy
from lossguard.agent.readers import CsvLog
from lossguard.agent.run import Run
from lossguard.detectors import Finding, default_detectors
from lossguard.errors import InputError


@dataclass
class Backtest:
    """What the detectors had to say about one file."""

    file: str
    log: CsvLog
    run: Run
    findings: list[Finding]
    """One an episode, at its worst, with its end."""

    @property
    def incidents(self) -> Incidents:
        return self.run.incidents

    def lines(self) -> Iterator[dict[str, object]]:
        """One object a finding, as ``--json`` prints them."""
        for finding in self.findings:
            yield {
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


def backtest(path: str, policy: str = "observe") -> Backtest:
    """Run the detectors over one file. Raises InputError when it cannot be read."""
    log = CsvLog(Path(path))
    run = Run(path, find_policy(policy), default_detectors(), time.time)
    episodes: dict[tuple[str, int], Finding] = {}
    for observation in log:
        for finding in run.observe(observation).findings:
            key = (str(finding.symptom), finding.onset_step)
            episodes[key] = _worst(episodes.get(key), finding)
    if log.num_rows == 0:
        line, why = log.skipped[0] if log.skipped else (1, "there is only a header")
        raise InputError(f"{path}: not one row could be read; line {line}: {why}")
    findings = sorted(episodes.values(), key=lambda f: (f.detected_step, str(f.symptom)))
    return Backtest(path, log, run, findings)


def _worst(before: Finding | None, after: Finding) -> Finding:
    """One finding for the whole episode: the words of its worst moment, the first detection."""
    if before is None:
        return after
    worse = after if after.severity.rank > before.severity.rank else before
    end = after.end_step if after.end_step is not None else before.end_step
    return replace(worse, detected_step=before.detected_step, end_step=end)
