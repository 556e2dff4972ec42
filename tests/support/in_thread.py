"""What works in a thread beside the test."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TypeVar

from tests.support.waiting import PATIENCE_S

T = TypeVar("T", bound="InThread")


class InThread(ABC):
    """At work from the ``with`` on, and until its end."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    @abstractmethod
    def _work(self) -> None:
        """Sets ``_ready`` as soon as it may be used; returns soon after ``_stop`` is set."""

    def __enter__(self: T) -> T:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S), "it does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "it does not end"
