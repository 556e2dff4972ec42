"""The agent's loop: when it ends by itself, and what does not end it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from lossguard.agent import daemon


class Loop:
    """The loop with nothing to watch; ``each`` is called at every turn, with its number."""

    def __init__(self, each: Callable[[Loop, int], None]) -> None:
        self.turns = 0
        self.desk = SimpleNamespace(tick=ignore, heard_s=float("-inf"), has_alerts_waiting=False)
        self.registry = SimpleNamespace(tick=ignore, active=0, save=ignore)
        self.routers: list[Any] = []
        self._each = each

    def _turn(self) -> None:
        self.turns += 1
        self._each(self, self.turns)

    def run(self) -> int:
        """How many turns until it ended by itself."""
        store: Any = SimpleNamespace(tick=ignore)
        desk: Any = self.desk
        registry: Any = self.registry
        work = [("testing", self._turn)]
        asyncio.run(daemon._tick(asyncio.Event(), store, registry, desk, self.routers, work, 1e-9))
        return self.turns


def ignore(*_: object) -> None:
    """Nothing is to be done."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "PICTURE_EVERY_S", 0.001)


def waiting_until(last: int) -> Callable[[Loop, int], None]:
    """There are alerts to be sent in so many turns."""

    def each(loop: Loop, turn: int) -> None:
        loop.desk.has_alerts_waiting = turn <= last

    return each


def test_with_nothing_to_watch_it_ends() -> None:
    assert Loop(ignore).run() == 1


def test_it_does_not_end_while_people_are_to_be_told() -> None:
    """A run dies at night and Slack is down: nobody else would tell of it."""
    assert Loop(waiting_until(5)).run() == 6


def test_a_socket_that_fails_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(waiting_until(3))

    def fail() -> None:
        raise OSError("no more files")

    loop.routers = [SimpleNamespace(drain=fail)]
    assert loop.run() == 4
    assert caplog.text.count("receiving failed") == 1
