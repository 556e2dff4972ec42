"""An agent that is gone is missed aloud, once, with what that means for the training."""

from __future__ import annotations

import logging

import pytest

from lossguard.probes.absence import LATE_S, Absence


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("lossguard.probes.absence.time.monotonic", lambda: 100.0)
    caplog.set_level(logging.INFO, logger="lossguard")


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_an_agent_that_comes_in_time_is_greeted_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    absence = Absence(acts=True)
    absence.goes_on(100.0 + LATE_S - 1)
    assert absence.ends(100.0 + LATE_S - 0.5) == ""
    assert said(caplog) == [("INFO", "the lossguard agent is there")]


def test_one_that_goes_is_missed_once_an_outage_and_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    absence = Absence(acts=True)
    absence.ends(101.0)
    caplog.clear()
    for gone in (200.0, 300.0):
        absence.begins(gone, gone + 3.0)
        for second in range(4, 60):
            absence.goes_on(gone + second)
        assert absence.ends(gone + 60.0) == "no agent for 60 s"
    gone_words = (
        "no word from the lossguard agent for 3 s: training goes on, unwatched (no rollback, no "
        "bounds on loss and gradient norm; an update that is not finite is still skipped)"
    )
    back = "the lossguard agent is back after 60 s: training is watched; bounds come from it again"
    assert said(caplog) == [("WARNING", gone_words), ("WARNING", back)] * 2


def test_one_that_never_came_is_missed_too(caplog: pytest.LogCaptureFixture) -> None:
    absence = Absence(acts=False)
    for second in range(30):
        absence.goes_on(100.0 + second)
    words = (
        "no lossguard agent has been there for 10 s: training goes on, unwatched (nothing of it "
        "depends on the agent)"
    )
    assert said(caplog) == [("WARNING", words)]
