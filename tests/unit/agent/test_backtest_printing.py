"""What people and scripts get to see of a backtest."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lossguard.agent.backtest import Backtest, backtest
from lossguard.agent.backtest_printing import (
    JsonPrinter,
    PlainPrinter,
    TerminalPrinter,
    explained,
    printer,
    summary,
)
from lossguard.agent.policy_file import shipped_policy
from tests.support.logs import open_all
from tests.support.streams import healthy_losses


@pytest.fixture
def result(tmp_path: Path) -> Backtest:
    """A training with a leap that lasts, and a NaN."""
    calm = healthy_losses(270)
    losses = [*calm[:200], *[40.0] * 4, *calm[200:260], math.nan, *calm[260:]]
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n" + "".join(f"{s},{x!r}\n" for s, x in enumerate(losses, 1)))
    (log,) = open_all(path)
    return backtest(log, shipped_policy("observe"), explain=True)


def refuse(constant: str) -> Any:
    """JSON knows neither NaN nor Infinity."""
    raise AssertionError(constant)


def test_json_is_one_strict_object_a_line(
    result: Backtest, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing else."""
    shown = JsonPrinter()
    shown.show(result)
    shown.close()
    lines = capsys.readouterr().out.splitlines()
    objects = [json.loads(line, parse_constant=refuse) for line in lines]
    assert objects == json.loads(json.dumps(list(result.lines())))
    assert len(objects) == len(result.findings) > 1


def test_plain_text_is_a_line_a_finding(
    result: Backtest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below a summary, without colours, whatever the width."""
    shown = PlainPrinter(explain=False)
    shown.show(result)
    out = capsys.readouterr().out
    first, head, *rows = out.splitlines()
    assert first == f"{result.file}: {summary(result)}"
    assert head.split() == ["severity", "symptom", "onset", "detected", "end", "what"]
    assert len(rows) == len(result.findings)
    assert any(re.match(r"critical +loss_spike +201 +\d+ +204 +the loss", row) for row in rows)
    assert "\x1b" not in out


def test_the_summary_counts(result: Backtest) -> None:
    """By severity; a healthy log has nothing."""
    criticals = sum(f.severity.value == "critical" for f in result.findings)
    assert f"{criticals} critical" in summary(result)
    assert summary(result).endswith("in 275 steps")
    healthy = Backtest(result.file, result.account, 1, [])
    assert summary(healthy) == "nothing found in 1 step"


def test_several_logs_end_with_a_line_about_all_of_them(
    result: Backtest, capsys: pytest.CaptureFixture[str]
) -> None:
    """One does not."""
    shown = PlainPrinter(explain=False)
    shown.show(result)
    shown.show(Backtest("healthy.csv", result.account, 10, []))
    shown.close()
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 logs, 1 with findings (")


def test_an_explanation_has_the_numbers_and_the_values_around(result: Backtest) -> None:
    """The step that it is about stands in brackets."""
    i = next(i for i, f in enumerate(result.findings) if f.symptom.value == "loss_spike")
    finding = result.findings[i]
    title, message, *others = explained(finding, result.explanations[i])
    assert title.startswith("critical loss_spike: began at step 201, noticed at ")
    assert title.endswith("over at 204")
    assert message.strip() == finding.message
    text = "\n".join(others)
    assert f"score {finding.score:.4g}" in text
    assert all(name.replace("_", " ") in text for name in finding.evidence)
    assert re.search(r"loss around the onset: 197: 2\.\d+ .*  \[201: 40\]", text)
    nan = next(i for i, f in enumerate(result.findings) if f.symptom.value == "nonfinite")
    assert "[265: nan]" in "\n".join(explained(result.findings[nan], result.explanations[nan]))


@pytest.mark.parametrize("explain", [False, True])
def test_a_terminal_gets_colours_unless_it_wants_none(
    result: Backtest, explain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``NO_COLOR`` is respected; the words are the same."""

    def shown() -> str:
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, width=200, highlight=False)
        TerminalPrinter(console, explain=explain).show(result)
        return file.getvalue()

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    colourful = shown()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = shown()
    colour = re.compile(r"\x1b\[[0-9;]*?3\d[0-9;]*m")
    assert colour.search(colourful)
    assert not colour.search(plain)
    bare = [re.sub(r"\x1b\[[0-9;]*m", "", text) for text in (colourful, plain)]
    assert bare[0] == bare[1]
    assert "loss_spike" in bare[0]


def test_text_that_is_no_markup_is_left_as_it_is(result: Backtest) -> None:
    """A file may be called ``[red]``."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200, highlight=False)
    odd = Backtest("[red]log[/red].csv", result.account, 1, [])
    TerminalPrinter(console, explain=False).show(odd)
    assert "[red]log[/red].csv" in re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())


def test_the_printer_fits_the_place(capsys: pytest.CaptureFixture[str]) -> None:
    """What is no terminal gets plain text."""
    assert isinstance(printer(as_json=True, explain=False), JsonPrinter)
    assert isinstance(printer(as_json=False, explain=False), PlainPrinter)
