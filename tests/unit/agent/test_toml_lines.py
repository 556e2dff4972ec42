"""The line that a key stands in."""

from __future__ import annotations

import pytest

from lossguard.agent.toml_lines import line_of

TEXT = """\
name = "x"  # 1

[detectors.grad_spike]
  multiple = 3
"hard_bound" = 4
[ detectors . loss_spike ]  # six
window = 9
[detectors]
plateau = { window = 3 }
divergence.window = 3
[tool.x]
multiple = 1
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("name", 1),
        ("detectors.grad_spike", 3),
        ("detectors.grad_spike.multiple", 4),
        ("detectors.grad_spike.hard_bound", 5),
        ("detectors.loss_spike.window", 7),
        ("detectors.divergence.window", 10),
        ("tool.x.multiple", 12),
    ],
)
def test_a_key_is_found_in_its_own_table(path: str, line: int) -> None:
    """Also quoted, indented, dotted, with blanks in the header."""
    assert line_of(TEXT, tuple(path.split("."))) == line


def test_what_has_no_line_of_its_own_is_in_the_one_around_it() -> None:
    """An inline table, a key that is missing, and what is nowhere."""
    assert line_of(TEXT, ("detectors", "plateau", "window")) == 9
    assert line_of(TEXT, ("detectors", "grad_spike", "absurd")) == 3
    assert line_of(TEXT, ("elsewhere",)) is None
