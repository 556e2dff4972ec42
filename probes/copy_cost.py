"""What copies of the training's state cost it: time of the host, and of the device."""

from __future__ import annotations

from collections import deque
from typing import Any

_LATEST = 3


class CopyCost:
    """The middle of the last three: one that was interrupted by another process says little.

    Where the copies are queued on a GPU the training waits for them there and not on the host; how
    long is known when they are done, and that is looked for, not waited for.
    """

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_LATEST)
        self._under_way: tuple[Any, Any] | None = None

    def took(self, host_s: float, begun: Any, done: Any) -> None:
        """One was taken. ``begun`` and ``done`` are CUDA events before and behind its copies, or
        None where nothing was queued."""
        self._latest.append(host_s)
        self._under_way = None if begun is None or done is None else (begun, done)

    def is_news(self) -> bool:
        """Whether the device has told since how long the last one took there. Never waits."""
        if self._under_way is None:
            return False
        begun, done = self._under_way
        if not done.query():
            return False
        self._under_way = None
        on_device_s = begun.elapsed_time(done) / 1000
        if on_device_s <= self._latest[-1]:
            return False
        self._latest[-1] = on_device_s
        return True

    @property
    def seconds(self) -> float:
        """Of the next, as far as can be told [s]."""
        return sorted(self._latest)[(len(self._latest) - 1) // 2]
