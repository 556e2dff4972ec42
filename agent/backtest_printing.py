"""The findings of ``lossguard backtest`` on stdout: a table, plain lines, or JSON."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lossguard.agent.backtest import Backtest
from lossguard.agent.backtest_evidence import Explanation, Point
from lossguard.agent.listing import table
from lossguard.detectors import Finding, Severity

_STYLES = {"info": "cyan", "warning": "yellow", "critical": "bold red"}
_HEAD = ("severity", "symptom", "onset", "detected", "end", "what")


class Printer(Protocol):
    """Prints one result after the other."""

    def show(self, result: Backtest) -> None:
        """One log."""

    def close(self) -> None:
        """No more come."""


def printer(*, as_json: bool, explain: bool) -> Printer:
    """JSON, a table with colours on a terminal, or plain text."""
    if as_json:
        return JsonPrinter()
    console = Console(highlight=False, soft_wrap=True)
    if console.is_terminal:
        return TerminalPrinter(Console(highlight=False), explain=explain)
    return PlainPrinter(explain=explain)


class JsonPrinter:
    """One object a finding, one a line."""

    def show(self, result: Backtest) -> None:
        """One log."""
        for line in result.lines():
            _say(json.dumps(line, allow_nan=False))

    def close(self) -> None:
        """Nothing more to say."""


class PlainPrinter:
    """Text without colours, one finding a line."""

    def __init__(self, *, explain: bool) -> None:
        self._explain = explain
        self._tally = _Tally()

    def show(self, result: Backtest) -> None:
        """One log."""
        self._tally.add(result)
        _say(f"{result.file}: {summary(result)}")
        if self._explain:
            for finding, explanation in zip(result.findings, result.explanations, strict=True):
                _say("")
                for line in explained(finding, explanation):
                    _say(line)
            _say("")
        elif result.findings:
            _say(table(_HEAD, [_row(finding) for finding in result.findings]))

    def close(self) -> None:
        """A last line about all of them."""
        if self._tally.num_files > 1:
            _say(self._tally.line())


class TerminalPrinter:
    """For people at a terminal; colours only where they are wanted (``NO_COLOR``)."""

    def __init__(self, console: Console, *, explain: bool) -> None:
        self._console = console
        self._explain = explain
        self._tally = _Tally()

    def show(self, result: Backtest) -> None:
        """One log."""
        self._tally.add(result)
        worst = max((f.severity for f in result.findings), key=lambda s: s.rank, default=None)
        style = _STYLES[str(worst)] if worst is not None else "green"
        self._console.print(Text.assemble((result.file, "bold"), ": ", (summary(result), style)))
        if self._explain:
            for finding, explanation in zip(result.findings, result.explanations, strict=True):
                first, *others = explained(finding, explanation)
                self._console.print(Text(f"\n{first}", style=_STYLES[str(finding.severity)]))
                for line in others:
                    self._console.print(Text(line))
            self._console.print()
        elif result.findings:
            self._console.print(_rich_table(result.findings))

    def close(self) -> None:
        """A last line about all of them."""
        if self._tally.num_files > 1:
            self._console.print(Text(self._tally.line(), style="bold"))


def summary(result: Backtest) -> str:
    """How many findings, of which kind, in how many steps."""
    counts = Counter(str(finding.severity) for finding in result.findings)
    steps = f"{result.num_steps:,} step{'s' * (result.num_steps != 1)}"
    if not counts:
        return f"nothing found in {steps}"
    kinds = [f"{counts[str(s)]} {s}" for s in reversed(Severity) if counts[str(s)]]
    total = sum(counts.values())
    return f"{total} finding{'s' * (total != 1)} ({', '.join(kinds)}) in {steps}"


def explained(finding: Finding, explanation: Explanation) -> list[str]:
    """The numbers behind a finding, as lines of text; the first is its title."""
    end = "not over at the end" if finding.end_step is None else f"over at {finding.end_step}"
    where = f" in {finding.where}" if finding.where else ""
    lines = [
        f"{finding.severity} {finding.symptom}{where}: began at step {finding.onset_step}, "
        f"noticed at {finding.detected_step}, {end}",
        f"  {finding.message}",
        f"  score {finding.score:.4g} (1 is just over the threshold)",
    ]
    if finding.evidence:
        lines.append("  numbers: " + ", ".join(_numbers(finding)))
    for title, points, mark in (
        ("around the onset", explanation.around_onset, finding.onset_step),
        ("around the detection", explanation.around_detection, finding.detected_step),
    ):
        if points:
            lines.append(f"  {finding.metric} {title}: {_series(points, mark)}")
    if not explanation.around_onset and explanation.around_detection:
        lines.append("  the onset lies further back than the values that are kept")
    return lines


def _numbers(finding: Finding) -> list[str]:
    return [f"{name.replace('_', ' ')} {_short(v)}" for name, v in finding.evidence.items()]


def _series(points: Sequence[Point], mark: int) -> str:
    """``step: value`` pairs, the step that it is about in brackets."""
    cells = [
        f"[{step}: {_short(value)}]" if step == mark else f"{step}: {_short(value)}"
        for step, value in points
    ]
    return "  ".join(cells)


def _short(value: float) -> str:
    return f"{value:.5g}" if math.isfinite(value) else str(value)


def _row(finding: Finding) -> tuple[Any, ...]:
    end = "-" if finding.end_step is None else finding.end_step
    return (
        str(finding.severity), str(finding.symptom), finding.onset_step, finding.detected_step,
        end, finding.message,
    )  # fmt: skip


def _rich_table(findings: Sequence[Finding]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for name in _HEAD:
        flush = name in ("onset", "detected", "end")
        shown.add_column(name, justify="right" if flush else "left", no_wrap=name != "what")
    for finding in findings:
        severity, *cells = (str(cell) for cell in _row(finding))
        shown.add_row(Text(severity, style=_STYLES[severity]), *map(Text, cells))
    return shown


class _Tally:
    """How many files, and how many of them have findings."""

    def __init__(self) -> None:
        self.num_files = 0
        self._with_findings = 0
        self._by_severity: Counter[str] = Counter()

    def add(self, result: Backtest) -> None:
        """One more."""
        self.num_files += 1
        self._with_findings += bool(result.findings)
        self._by_severity.update(str(finding.severity) for finding in result.findings)

    def line(self) -> str:
        """All of it in one line."""
        kinds = [
            f"{self._by_severity[str(s)]} {s}"
            for s in reversed(Severity)
            if self._by_severity[str(s)]
        ]
        found = f" ({', '.join(kinds)})" if kinds else ""
        return f"{self.num_files:,} logs, {self._with_findings:,} with findings{found}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
