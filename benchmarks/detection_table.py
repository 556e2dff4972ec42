"""The figures as tables: on a terminal with rich, in docs/detection.md as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from benchmarks.detection_failures import Failure
from benchmarks.detection_faults import CONTROL, FAULTS
from benchmarks.detection_injection import Injected
from benchmarks.detection_rules import LEVELS
from benchmarks.detection_scenarios import HEALTHY, Judged
from benchmarks.detection_summary import KINDS_OF_EVENT, Rate, Share, Summary, share_of_faults

BEGIN, END = "<!-- detection:begin -->", "<!-- detection:end -->"


@dataclass
class Sheet:
    """A table that has not been drawn yet."""

    title: str
    headings: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def drawn(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, title_justify="left")
        for number, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if number else "left", no_wrap=not number)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a document."""
        lines = [f"### {self.title}", "", f"| {' | '.join(self.headings)} |"]
        lines.append("| --- |" + " ---: |" * (len(self.headings) - 1))
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join(lines) + "\n"


def side_by_side(title: str, summaries: Mapping[str, Summary], costs: Mapping[str, float]) -> Sheet:
    """All rules on one half of the logs. ``costs`` are multiples of the NaN check's time."""
    sheet = Sheet(
        title,
        [
            "rule",
            *(f"{name} found" for name in KINDS_OF_EVENT),
            "false / 10k, healthy runs",
            "false / 10k, all",
            "time in alarm",
            "delay [rows]",
            "onset off by [rows]",
            "cost / NaN check",
        ],
    )
    for rule, summary in summaries.items():
        sheet.rows.append(
            [
                rule,
                *(_share(summary.shares[name]) for name in KINDS_OF_EVENT),
                _rate(summary.false_on_healthy),
                _rate(summary.false_on_all),
                "-" if math.isnan(summary.time_in_alarm) else f"{summary.time_in_alarm:.2%}",
                _number(summary.delay),
                _number(summary.onset_error),
                f"{costs[rule]:.3g}",
            ]
        )
    return sheet


def by_type(halves: Mapping[str, Mapping[str, Summary]]) -> Sheet:
    """Lossguard's findings by type of event; ``halves`` are summaries by rule, by half."""
    columns = [(level, half) for level in LEVELS for half in halves]
    sheet = Sheet(
        "Lossguard, by type of event",
        ["event", *(f"{level.removeprefix('Lossguard, ')}, {half}" for level, half in columns)],
    )
    any_level = next(iter(LEVELS))
    types = sorted({name for half in halves.values() for name in half[any_level].types})
    none = Share(0, 0, math.nan, math.nan)
    for name in types:
        shares = [halves[half][level].types.get(name, none) for level, half in columns]
        sheet.rows.append([name, *(f"{each.found}/{each.total}" for each in shares)])
    return sheet


def of_failures(failed: Sequence[Failure]) -> Sheet:
    """Critical events that were not called critical, and critical findings for nothing."""
    sheet = Sheet(
        "Lossguard's grave failures on the labelled logs",
        ["log", "half", "event or finding", "steps", "what was said"],
    )
    for one in filter(lambda one: one.grave, failed):
        half = "held out" if one.held_out else "train"
        sheet.rows.append([one.log, half, one.what, one.steps, one.said])
    return sheet


def of_faults(injected: Mapping[str, Sequence[Injected]]) -> Sheet:
    """Found share and median delay, by rule and fault."""
    count = len(next(iter(injected.values()))) // len(FAULTS) if injected else 0
    sheet = Sheet(f"Injected faults: found of {count}, median delay [rows]", ["rule", *FAULTS])
    for rule, each in injected.items():
        cells = []
        for fault in FAULTS:
            share, delay = share_of_faults([one for one in each if one.fault == fault])
            late = f" ({delay:.0f})" if share.found and fault != CONTROL else ""
            cells.append(f"{share.found}{late}")
        sheet.rows.append([rule, *cells])
    return sheet


def of_faults_by_level(injected: Mapping[str, Sequence[Injected]]) -> Sheet:
    """Lossguard's share of each fault, with its interval."""
    sheet = Sheet(
        "Injected faults, Lossguard: found (90 % interval), median delay [rows]",
        ["fault", *(level.removeprefix("Lossguard, ") for level in LEVELS)],
    )
    for fault in FAULTS:
        cells = []
        for level in LEVELS:
            own = [one for one in injected[level] if one.fault == fault]
            share, delay = share_of_faults(own)
            cells.append(_share(share) + (f", {delay:.0f}" if share.found else ""))
        sheet.rows.append([fault, *cells])
    return sheet


def of_scenarios(judged: Mapping[str, Sequence[Judged]]) -> Sheet:
    """Recorded trainings: found by symptom (in brackets: by its name), and false episodes."""
    symptoms = sorted({one.symptom for each in judged.values() for one in each} - {HEALTHY})
    sheet = Sheet(
        "Recorded trainings: found of all (by their name)",
        ["rule", *symptoms, "healthy with an alarm", "false episodes"],
    )
    for rule, each in judged.items():
        cells = []
        for symptom in symptoms:
            own = [one for one in each if one.symptom == symptom]
            named = f" ({sum(one.named for one in own)})" if rule in LEVELS else ""
            cells.append(f"{sum(one.found for one in own)}/{len(own)}{named}")
        healthy = [one for one in each if one.symptom == HEALTHY]
        cells.append(f"{sum(one.num_false > 0 for one in healthy)}/{len(healthy)}")
        sheet.rows.append([rule, *cells, str(sum(one.num_false for one in each))])
    return sheet


def rewrite(path: Path, sheets: Sequence[Sheet]) -> None:
    """Put the sheets between the two marks of a document. Raises ValueError where they are not."""
    text = path.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path} has no {BEGIN} and {END} to write between")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    body = "\n".join(sheet.markdown() for sheet in sheets)
    path.write_text(f"{before}{BEGIN}\n{body}{END}{after}")


def _share(share: Share) -> str:
    if not share.total:
        return "-"
    return f"{share.found}/{share.total} ({100 * share.low:.0f}-{100 * share.high:.0f} %)"


def _rate(rate: Rate) -> str:
    if not rate.rows:
        return "-"
    return f"{rate.per_10k:.2f} ({rate.low:.2f}-{rate.high:.2f})"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:g}"
