"""How numbers and other people's text are written."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rich.cells import cell_len

from lossguard.agent import feed
from lossguard.tui import figures
from lossguard.tui.plain import fitted, plain
from lossguard.tui.runs import row


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[red]x[/red]", "[red]x[/red]"),
        ("a\nb\tc\r", "a␊b␉c␍"),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x9b31m\x7f", "·31m␡"),
        ("left\u202eright\u2066", "left·right·"),
        ("line\u2028feed", "line·feed"),
        ("a" + "\u0301" * 50, "a\u0301\u0301"),
    ],
)
def test_text_from_elsewhere_is_shown_literally(text: str, shown: str) -> None:
    """Markup, line breaks, escape sequences and changes of direction lose their powers."""
    assert plain(text) == shown


@pytest.mark.parametrize("text", ["x" * 100_000, "漢字" * 50_000, "👩‍💻" * 999, "short"])
def test_text_is_cut_and_padded_to_cells(text: str) -> None:
    """The width counts cells, not characters."""
    assert cell_len(plain(text, 20)) <= 20
    assert cell_len(fitted(text, 20)) == 20


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "Inf"),
        (float("-inf"), "-Inf"),
        (None, "—"),
        (0.0, "0"),
        (3e-4, "3e-4"),
        (65536.0, "65,536"),
        (2.41371, "2.414"),
        (123.456, "123.5"),
        (1e12, "1e12"),
    ],
)
def test_numbers_are_short_and_honest(number: float | None, shown: str) -> None:
    """Four digits are enough; NaN and Inf are named."""
    assert figures.value(number) == shown


def test_times_have_their_natural_unit() -> None:
    """From microseconds to days."""
    assert figures.seconds(2e-5) == "20 µs"
    assert figures.seconds(0.1873) == "187 ms"
    assert figures.seconds(2.5) == "2.5 s"
    assert figures.seconds(float("nan")) == "—"
    assert figures.ago(12) == "12 s"
    assert figures.ago(7500) == "2 h 05"
    assert figures.ago(400_000) == "4 d"
    assert figures.rate(0.02) == "50 s/step"
    assert figures.rate(0.0) == "—"


def test_the_package_is_cheap_to_import() -> None:
    """``import lossguard.tui`` loads neither Textual nor torch; the app needs no torch."""
    script = (
        "import sys, lossguard.tui; assert 'textual' not in sys.modules;"
        "import lossguard.tui.app;"
        "bad = {'torch', 'scipy', 'lossguard.detectors', 'lossguard.agent.store'};"
        "assert not bad & set(sys.modules), bad & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("width", [60, 78, 80, 120])
def test_a_run_on_one_line_fits_it_whatever_is_wrong_with_it(width: int) -> None:
    """Many past incidents, a long name, a high rate: the row never wraps."""
    run = feed.RunSummary(
        run="x-1",
        name="a-name-that-is-longer-than-any-screen-is-wide" * 3,
        state="running",
        step=123_456_789,
        applied=1,
        world_size=1,
        started=0.0,
        metrics=[],
        last={},
        incidents=1234,
        actions=0,
        dropped=0,
        steps_per_s=1234.5,
    )
    assert row(run, "▸", "3 min", width, True).cell_length <= width
