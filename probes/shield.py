"""Keeps our own failures out of the training loop."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from typing import Any

from lossguard.failpoints import IS_SET, reach

log = logging.getLogger("lossguard")
log.addHandler(logging.NullHandler())

_clock = time.perf_counter_ns


class Shield:
    """Calls parts of the probe so that no exception of theirs reaches the caller.

    The first failure of a part switches that part off for good, with one log line and one
    report. KeyboardInterrupt, SystemExit and the like are not ours and pass through.
    """

    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        self._report = report
        self._off: set[str] = set()
        self.own_time_ns = 0
        """Spent in ``timed`` calls so far: time of ours in the training thread."""

    def is_on(self, part: str) -> bool:
        return part not in self._off

    def call(self, part: str, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)``; None when the part is off or has just failed."""
        if part in self._off:
            return None
        try:
            if IS_SET:
                reach(f"probe.{part}")
            return function(*args)
        except Exception as error:
            self.switch_off(part, error)
            return None

    def timed(self, part: str, function: Callable[..., Any], *args: Any) -> Any:
        """``call``, and the time it takes counts as ours."""
        if part in self._off:
            return None
        begun = _clock()
        try:
            if IS_SET:
                reach(f"probe.{part}")
            return function(*args)
        except Exception as error:
            self.switch_off(part, error)
            return None
        finally:
            self.own_time_ns += _clock() - begun

    def always(self, part: str, function: Callable[..., Any], *args: Any) -> None:
        """``function(*args)`` even when the part is off: for what cleans up after it."""
        try:
            function(*args)
            if IS_SET:
                reach(f"probe.{part}")
        except Exception as error:
            self.switch_off(part, error)

    def switch_off(self, part: str, error: Exception) -> None:
        """Switch a part off, and say so once."""
        if part in self._off:
            return
        self._off.add(part)
        try:
            what = f"{type(error).__name__}: {error}"
            log.error("the %s probe failed (%s) and is off; training goes on", part, what)
            self._report(part, what, "".join(traceback.format_exception(error)[-8:]))
        except Exception:
            log.debug("could not report it", exc_info=True)
