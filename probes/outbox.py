"""What waits to be sent: measurements, which may be dropped, and words, which may not.

The training thread puts in, the link thread takes out. ``deque`` operations are atomic under the
interpreter's lock, so neither waits for the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lossguard.probes import wire
from lossguard.probes.transfer import Arrival, Values
from lossguard.probes.wire import SKIP_GRAD_NORM, SKIP_LOSS, SKIP_NONFINITE, SKIP_SCALER
from lossguard.probes.zoomed import Zoomed

_MAX_BYTES = 32 << 20
_MAX_STEPS = 4096
_MAX_WORDS = 4096
_KEPT_COUNTS = 20_000


class Measured(NamedTuple):
    """One step: ``host`` values are known, ``arrival`` brings those of the device.

    ``factors`` multiply the device's values from ``factors_at`` on (norm to RMS, count to share).
    ``skip_index`` is the place of ``skipped`` among the device's values, or -1; ``known`` are
    places among them, and what the host knows to belong there.
    """

    step: int
    sequence: int
    layout: wire.Layout
    time_s: float
    host: Values
    arrival: Arrival | None
    factors: npt.NDArray[np.float32]
    factors_at: int
    skip_index: int
    counts_as_update: bool
    known: Sequence[tuple[int, float]] = ()
    clipped: tuple[int, int, int] | None = None
    """Places of the clipping bound and its coefficient in ``host``, of the norm on the device."""

    def read(self) -> tuple[Values, bool]:
        """All values in the order of the layout, and whether the update took effect."""
        if self.arrival is None:
            return self.host, self.counts_as_update
        device = self.arrival.read()
        if self.factors.size:
            device[self.factors_at : self.factors_at + self.factors.size] *= self.factors
        for place, value in self.known:
            device[place] = value
        if self.clipped is not None:
            self._note_coefficient(*self.clipped, device)
        skipped = self.skip_index >= 0 and device[self.skip_index] > 0
        return np.concatenate([self.host, device]), self.counts_as_update and not skipped

    def _note_coefficient(self, bound: int, coefficient: int, norm: int, device: Values) -> None:
        """What torch multiplies the gradients by; the norm is not known before this."""
        max_norm, total = float(self.host[bound]), float(device[norm])
        if max_norm == max_norm and total == total:
            self.host[coefficient] = min(1.0, max_norm / (total + 1e-6))


@dataclass(frozen=True, slots=True)
class Lost:
    """A step whose values could not be brought to the host; its update is taken to count."""

    step: int


@dataclass(frozen=True, slots=True)
class Restored:
    """The loop went back to the state after ``step``: the count of applied updates does too."""

    step: int


@dataclass(frozen=True, slots=True)
class Parcel:
    """A step ready to send."""

    layout: wire.Layout
    header: wire.Step
    payload: bytes


class Outbox:
    """Bounded queues between the training thread and the link.

    ``put`` belongs to the training thread, ``say`` and ``tell`` to both, the rest to the link's.
    """

    def __init__(self, run: str, rank: int) -> None:
        self._run = run
        self._rank = rank
        self._measured: deque[Measured | Lost | Restored | Zoomed] = deque()
        self._applied_at: dict[int, int] = {0: 0}
        self._limit = _MAX_STEPS
        self.words: deque[wire.Message] = deque(maxlen=_MAX_WORDS)
        self.parcels: deque[Parcel] = deque()
        self.applied = 0
        # One for each thread: adding to a number is not atomic.
        self._dropped_by_loop = 0
        self._dropped_by_link = 0
        self.num_vetoed = 0
        self.last_vetoed_step = 0
        self.over_bounds_in_a_row = 0
        self.farewell: wire.Bye | None = None
        """The very last message, sent after everything else."""

    def fit(self, values_per_step: int) -> None:
        """Bound the queues by bytes as well as by count."""
        self._limit = max(64, min(_MAX_STEPS, _MAX_BYTES // (4 * max(1, values_per_step))))

    @property
    def dropped(self) -> int:
        """Measurements dropped since the start, whatever the reason."""
        return self._dropped_by_loop + self._dropped_by_link

    def put(self, item: Measured | Lost | Restored | Zoomed) -> None:
        """Never waits."""
        self._dropped_by_loop += isinstance(item, Lost)
        self._measured.append(item)
        if len(self._measured) > 2 * self._limit:  # the link is dead: hold nothing for it
            with suppress(IndexError):
                self._dropped_by_loop += isinstance(self._measured.popleft(), Measured)

    def say(self, message: wire.Message) -> None:
        """Queue a word (event, answer, farewell): sent before measurements."""
        self.words.append(message)

    def tell(
        self,
        step: int,
        kind: str,
        message: str,
        data: dict[str, float | int | str] | None = None,
    ) -> None:
        """Queue an event of this rank."""
        self.say(
            wire.Event(
                run=self._run, rank=self._rank, step=step, kind=kind, message=message,
                data=data or {},
            )
        )  # fmt: skip

    def collect(self, *, wait: bool) -> bool:
        """Turn what has arrived from the device into parcels; False when nothing had.

        The oldest parcel goes when there are too many. ``wait`` waits for the device.
        """
        moved = False
        while self._measured:
            try:
                item = self._measured.popleft()
            except IndexError:
                break
            if isinstance(item, Measured):
                if not wait and item.arrival is not None and not item.arrival.ready():
                    self._measured.appendleft(item)
                    break
                self._pack(item)
            elif isinstance(item, Zoomed):
                if not wait and not item.arrival.ready():
                    self._measured.appendleft(item)
                    break
                self.say(item.told())
            elif isinstance(item, Lost):
                self._count(item.step, True)
            else:
                self.applied = self._applied_at.get(item.step, self.applied)
            moved = True
            if len(self.parcels) > self._limit:
                self.parcels.popleft()
                self._dropped_by_link += 1
        return moved

    def _count(self, step: int, took_effect: bool) -> None:
        self.applied += took_effect
        self._applied_at[step] = self.applied
        if len(self._applied_at) > _KEPT_COUNTS:
            for old in list(self._applied_at)[: _KEPT_COUNTS // 2]:
                del self._applied_at[old]

    def _pack(self, item: Measured) -> None:
        values, took_effect = item.read()
        self._count(item.step, took_effect)
        self._note_veto(item, values)
        header = wire.Step(
            run=self._run,
            rank=self._rank,
            step=item.step,
            applied=self.applied,
            layout=item.layout.layout,
            sequence=item.sequence,
            time_s=item.time_s,
        )
        self.parcels.append(Parcel(item.layout, header, values.tobytes()))

    def _note_veto(self, item: Measured, values: Values) -> None:
        if item.arrival is None or item.skip_index < 0:
            return
        code = float(values[len(item.host) + item.skip_index])
        bits = int(code) if code > 0 else 0
        if bits and not bits & SKIP_SCALER:
            self.num_vetoed += 1
            self.last_vetoed_step = item.step
        by_bounds = bits & (SKIP_GRAD_NORM | SKIP_LOSS) and not bits & SKIP_NONFINITE
        self.over_bounds_in_a_row = self.over_bounds_in_a_row + 1 if by_bounds else 0
