"""The loops of a process so far, and whether one more is worth it."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any, Protocol

from lossguard.probes.loop import Loop

log = logging.getLogger("lossguard")

_MOST_LOOPS = 64
_MOST_WAITING = 512
_LASTING = 20
"""A training that ends with fewer steps was a passing one: an inner loop, a trial [steps]."""
_MOST_PASSING = 3


class Progress(Protocol):
    """How far a loop has come; outlives it."""

    step: int


class Begun:
    """Holds none of them: a training that the script drops shall go."""

    def __init__(self) -> None:
        self.number = 0
        """How many there have been."""
        self._loops: list[tuple[weakref.ref[Loop], Progress]] = []
        self._num_passing = 0
        self._waiting: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._said = False

    @property
    def loops(self) -> list[Loop]:
        """Those that are alive."""
        return [loop for ref, _ in self._loops if (loop := ref()) is not None and loop.is_alive]

    def add(self, loop: Loop) -> None:
        """One more."""
        self._loops.append((weakref.ref(loop), loop.progress))

    def reference(self, loop: Loop | None) -> weakref.ref[Loop] | None:
        """Always the same one."""
        return next((ref for ref, _ in self._loops if loop is not None and ref() is loop), None)

    def is_worth_more(self, trained: Any) -> bool:
        """Not a run for each of a thousand inner loops. ``trained`` is an optimizer, or a
        parameter."""
        if self.number == 0:
            return True
        if self.number >= _MOST_LOOPS:
            if not self._said:
                self._said = True
                log.warning("%d trainings of this process are watched, and no more", _MOST_LOOPS)
            return False
        return self._num_passing < _MOST_PASSING or self._has_lasted(trained)

    def forget_dropped(self) -> None:
        """Let go of what the script has let go of, and note what was only passing. Looks through
        the garbage collector's objects, until it is known that trainings come and go here."""
        if not self._loops or self._num_passing >= _MOST_PASSING or self.number >= _MOST_LOOPS:
            return
        gc.collect()  # what the script has dropped shall go before more is held
        alive = self.loops
        ended = [begun for begun in self._loops if begun[0]() not in alive]
        self._loops = [begun for begun in self._loops if begun not in ended]
        self._num_passing += sum(progress.step < _LASTING for _, progress in ended)

    def _has_lasted(self, trained: Any) -> bool:
        """Whether it has stepped so often already."""
        if len(self._waiting) > _MOST_WAITING:
            self._waiting.clear()
        reference, waited = self._waiting.get(id(trained), (None, 0))
        if reference is None or reference() is not trained:
            reference, waited = weakref.ref(trained), 0
        self._waiting[id(trained)] = reference, waited + 1
        return waited + 1 >= _LASTING
