"""Clocks that do not depend on what else the machine does, and sleep that takes no time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch


@contextmanager
def own_clock() -> Iterator[None]:
    """Every clock of ``time`` shows the processor time of this process plus what it has slept.

    So the times a probe measures are those of the training alone, whoever shares the machine, and
    a script may sleep for hours, as a slow disk or a long step would.
    """
    slept = 0.0
    processor = time.process_time
    starts = {"monotonic": time.monotonic(), "time": time.time(), "perf_counter": 0.0}

    def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds

    def clock(start: float, unit: float) -> object:
        since = processor()
        number = int if unit > 1.0 else float
        return lambda: number((start + processor() - since + slept) * unit)

    with ExitStack() as stack:
        stack.enter_context(patch("time.sleep", sleep))
        for name, start in starts.items():
            stack.enter_context(patch(f"time.{name}", clock(start, 1.0)))
            stack.enter_context(patch(f"time.{name}_ns", clock(start, 1e9)))
        yield
