"""The bell rings for what is new and critical, once, and for nothing else."""

from __future__ import annotations

from typing import Any

import msgspec

from lossguard.agent import feed
from lossguard.tui.bell import Bell
from tests.tui.pictures import incidents, run_summary

OPEN = msgspec.structs.replace(
    incidents()[0], id="mine.1", state="open", severity="critical", acked=0.0, muted=False
)


def picture(*known: feed.IncidentLine, elsewhere: str = "", run: str = "mine") -> feed.Picture:
    runs = [run_summary("mine"), run_summary("other", worst=elsewhere)]
    return feed.Picture(runs=runs, run=run, incidents=list(known))


def changed(**fields: Any) -> feed.IncidentLine:
    return msgspec.structs.replace(OPEN, **fields)


def test_it_rings_once_for_a_critical_incident() -> None:
    bell = Bell()
    assert [bell.rings(picture(*known)) for known in ((), (OPEN,), (OPEN,))] == [False, True, False]


def test_it_rings_once_for_trouble_in_another_run() -> None:
    bell = Bell()
    heard = [bell.rings(picture(elsewhere=worst)) for worst in ("", "warning", *["critical"] * 2)]
    assert heard == [False, False, True, False]


def test_what_was_there_when_a_run_is_opened_is_seen_anyway() -> None:
    bell = Bell()
    assert not bell.rings(picture(OPEN))
    assert not bell.rings(picture(run="other", elsewhere="critical"))
    assert not bell.rings(picture(OPEN))


def test_what_calls_nobody_does_not_ring() -> None:
    for quiet in (
        changed(acked=1.0), changed(muted=True), changed(severity="warning"),
        changed(state="resolved"),
    ):  # fmt: skip
        bell = Bell()
        assert not bell.rings(picture())
        assert not bell.rings(picture(quiet))
