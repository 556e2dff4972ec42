"""A message that never ends: nobody sees it but the memory, and cutting it off frees that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lossguard.agent.growth import Growth

ROOT = Path(__file__).resolve().parents[2]


def test_what_was_begun_is_gone_when_its_sender_is_cut_off() -> None:
    """In a process of its own: what other tests have left in this one's memory says nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.endless_message"],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize(("grown", "said"), [([0, 9, 10], False), ([0, 5, 11], True)])
def test_growth_counts_from_the_first_look(grown: list[int], said: bool) -> None:
    """And anew after it was said once: a large agent is not cut off for good."""
    sizes = iter([grown[0], *grown, 11, 11, 12, 21])
    growth = Growth(lambda: next(sizes), most_bytes=10)
    assert [growth.is_too_much() for _ in grown][-1] == said
    if said:
        assert not any(growth.is_too_much() for _ in range(3))
