"""Votes of ranks that train on GPUs: on the device, among the kernels of the step.

The host does not wait for them, so nobody notices a peer that does not come but a thread of its
own. That gives the vote up, and with it ends what the device waits for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossguard.probes import nccl
from lossguard.probes.device_events import new_event, record_on
from lossguard.probes.graph_capture import leave_captures_alone

log = logging.getLogger("lossguard")

_LOOK_S = 0.1
_OVERDUE_S = 0.5
"""A vote that takes so long is asked about: has a peer left?"""
_LEFT = "left"
"""Under it stands the last vote that the first rank to leave takes part in."""


class _Cast(NamedTuple):
    """A vote on the device, between two events."""

    number: int
    begun: Any
    ended: Any


class _Events:
    """Used again and never let go: to destroy one waits for whoever waits for the device, and that
    would be the thread that is to end this."""

    def __init__(self, make: Callable[[], Any], record: Callable[[Any], None]) -> None:
        self._make = make
        self._record = record
        self._spare: deque[Any] = deque()

    def now(self) -> Any:
        """One that is recorded behind what is queued."""
        event = self._spare.popleft() if self._spare else self._make()
        self._record(event)
        return event

    def take_back(self, cast: _Cast) -> None:
        """From any thread."""
        self._spare += (cast.begun, cast.ended)


class OnCuda:
    """NCCL: ordered on the device among the step's kernels; the host does not wait.

    ``patience_s`` counts from when the device has come to a vote. What was given up adds up to
    zeros: nobody objects, and nobody agrees.
    """

    lag = 1

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        *,
        patience_s: float,
        begin: Callable[[bytes, int, int], nccl.Communicator],
        make_id: Callable[[], bytes],
        event: Callable[[], Any],
        record: Callable[[Any], None],
    ) -> None:
        # The script's own waits on the store would hold up the thread that watches.
        self._store = store.clone() if hasattr(store, "clone") else store
        self._size = size
        self._patience_s = patience_s
        self._events = _Events(event, record)
        if rank == 0:
            store.set("id", make_id())
        store.set(f"here/{rank}", "")
        store.wait([f"here/{i}" for i in range(size)], timedelta(seconds=patience_s))
        self._communicator = begin(store.get("id"), rank, size)
        self._lock = threading.Lock()
        self._under_way: deque[_Cast] = deque()
        self._number = 0
        self.why_over = ""
        """Why there will be no sums any more; empty before."""
        self._leaving = False
        self._wake = threading.Event()
        watcher = threading.Thread(target=self._watch, name="lossguard-vote", daemon=True)
        watcher.start()

    def add_up(self, votes: Tensor) -> None:
        """Queued: ``votes`` become the sums, or zeros. RuntimeError once a peer was missing."""
        number = self._number + 1
        mark = torch.full_like(votes[:1], number)
        given = torch.cat([mark, votes, mark])
        sums = torch.zeros_like(given)
        with self._lock:
            if self.why_over:
                raise RuntimeError(self.why_over)
            self._number = number
            begun = self._events.now()
            self._communicator.add_up(given, sums)
            self._under_way.append(_Cast(number, begun, self._events.now()))
        # What was given up has in it what was left in NCCL's buffers of earlier votes: then the
        # marks at its ends do not add up.
        is_whole = (sums[:1] == number * self._size) & (sums[-1:] == number * self._size)
        votes.copy_(torch.where(is_whole, sums[1:-1], 0.0))

    def close(self) -> None:
        """Take part in no further vote. Those under way end as they would."""
        if self._leaving:
            return
        self._leaving = True
        self._wake.set()
        self._store.compare_set(_LEFT, "", str(self._number))

    # --- in a thread of its own -----------------------------------------------------------

    def _watch(self) -> None:
        leave_captures_alone()
        since_s: dict[int, float] = {}
        while not self.why_over:
            self._wake.wait(_LOOK_S)
            try:
                why = self._look(since_s)
            except Exception as error:  # a device that is lost, a store that is gone
                why = f"{type(error).__name__}: {error}"
            if why:
                self._end(why)
            elif self._leaving and not self._under_way:
                self._end("this rank has left")
            elif self._leaving:
                time.sleep(_LOOK_S)

    def _look(self, since_s: dict[int, float]) -> str:
        """Why the oldest vote under way will not end; empty where it may."""
        while self._under_way and self._under_way[0].ended.query():
            cast = self._under_way.popleft()
            since_s.pop(cast.number, None)
            self._events.take_back(cast)
        if not self._under_way or not self._under_way[0].begun.query():
            return ""
        number = self._under_way[0].number
        waited_s = time.monotonic() - since_s.setdefault(number, time.monotonic())
        if waited_s < _OVERDUE_S:
            return ""
        if waited_s > self._patience_s:
            return f"a rank did not come to the vote for {self._patience_s:g} s"
        if self._communicator.has_failed():
            return "a rank is gone"
        if self._store.check([_LEFT]) and number > int(self._store.get(_LEFT)):
            return "a rank takes part no more"
        return ""

    def _end(self, why: str) -> None:
        # The training thread is in the lock for some microseconds, unless NCCL holds it in there.
        has_lock = self._lock.acquire(timeout=1.0)
        self.why_over = why
        if has_lock:
            self._lock.release()
        self._communicator.abort()
        log.debug("the vote of the ranks has ended: %s", why)


def on_cuda(store: Any, rank: int, size: int, device: torch.device, patience_s: float) -> OnCuda:
    """With NCCL. Raises OSError or AttributeError where there is none that can be used."""
    library = nccl.load()

    def begin(unique: bytes, rank: int, size: int) -> nccl.Communicator:
        with torch.cuda.device(device):
            made = nccl.Communicator(library, unique, rank, size)
            probe = torch.zeros(1, dtype=torch.float64, device=device)
            made.add_up(probe, torch.empty_like(probe))  # connects; that waits for the others
        return made

    return OnCuda(
        store, rank, size, patience_s=patience_s, begin=begin,
        make_id=lambda: nccl.unique_id(library), event=new_event,
        record=lambda event: record_on(event, device),
    )  # fmt: skip
