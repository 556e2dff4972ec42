"""The probe's part of an incident's folder: what the steps it names drew from and were fed."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from pathlib import Path

from lossguard.probes import wire
from lossguard.probes.durable import files_of
from lossguard.probes.durable_files import folder_of, require_space, write_folder
from lossguard.probes.graph_capture import leave_captures_alone
from lossguard.probes.last_steps import LastStep, LastSteps
from lossguard.probes.outbox import Outbox

_REMEMBERED = 256
_LAST_PATIENCE_S = 0.5
_ARRIVAL_S = 2.0
"""A device may be a step behind [s]."""
_LOOK_S = 0.01
_MOST_STEPS = 4
_SAFE = re.compile(r"[A-Za-z0-9._-]{1,160}\Z")
_LAST = "last"
"""Of a run that ends with an exception, in place of the number of an incident there is none of yet:
the agent puts it where it belongs."""


class Bundle:
    """Writes to disk what the agent asks for, beside what the agent itself has written.

    A folder a rank and a step, without pickle: ``lossguard.load_snapshot`` reads it. A thread of
    its own writes: neither the training nor the link, which has heartbeats to send and orders to
    hear, waits for a disk. What fails is said in the run's log.
    """

    def __init__(self, folder: Path, hello: wire.Hello, last: LastSteps, outbox: Outbox) -> None:
        self._folder = folder
        self._hello = hello
        self._last = last
        self._outbox = outbox
        self._asked: set[str] = set()
        self._lock = threading.Lock()
        """Held for as long as it takes to look at a queue."""
        self._waiting: deque[tuple[str, list[int]]] = deque()
        self._writer: threading.Thread | None = None

    def write(self, order: wire.Keep) -> None:
        """An incident is about these steps. The same one again changes nothing."""
        ours = order.incident.startswith(f"{self._hello.run}.") and _SAFE.match(order.incident)
        if not ours or order.incident in self._asked or len(self._asked) >= _REMEMBERED:
            return
        self._asked.add(order.incident)
        steps = sorted(set(order.steps))[:_MOST_STEPS]
        if self._last.keeps_batches:
            for step in steps:
                self._say_what_is_missing(step)
        self._write_soon(order.incident, steps)

    def write_last(self, step: int) -> None:
        """The training fails in ``step``, which has not come to its end, or right before it. Waits
        for the disk, but not for long."""
        self._last.step_ends(step)
        self._write_soon(f"{self._hello.run}.{_LAST}", [step])
        self.settle(_LAST_PATIENCE_S)

    def settle(self, patience_s: float) -> None:
        """Wait for what is being written [s]."""
        if (writer := self._writer) is not None:
            writer.join(patience_s)

    def _write_soon(self, incident: str, steps: list[int]) -> None:
        with self._lock:
            self._waiting.append((incident, steps))
            if self._writer is not None:
                return
            writer = threading.Thread(target=self._run, name="lossguard-evidence", daemon=True)
            try:
                writer.start()
            except RuntimeError as error:  # the process is ending, or may have no more of them
                self._waiting.clear()
                self._outbox.tell(0, "evidence", f"the evidence could not be written: {error}")
                return
            self._writer = writer

    def _run(self) -> None:
        """Until there is nothing more to write."""
        leave_captures_alone()
        while True:
            with self._lock:
                if not self._waiting:
                    self._writer = None
                    return
                incident, steps = self._waiting.popleft()
            self._write_all(incident, steps)

    def _write_all(self, incident: str, steps: list[int]) -> None:
        found = {last.step: last for step in steps if (last := self._last.find(step)) is not None}
        for last in found.values():
            try:
                self._write(incident, last)
            except Exception as error:  # a disk, or a state of a kind we do not know
                what = f"the evidence of step {last.step} could not be written: {error}"
                self._outbox.tell(last.step, "evidence", what[:500])

    def _say_what_is_missing(self, step: int) -> None:
        last = self._last.find(step)
        if last is None or last.step != step or not last.has_batch:
            why = "was too large" if self._last.too_large else "is no longer there"
            self._outbox.tell(step, "evidence", f"the batch of step {step} {why}")

    def _write(self, incident: str, last: LastStep) -> None:
        by = time.monotonic() + _ARRIVAL_S
        while not last.is_here:
            if time.monotonic() > by:
                raise OSError("it has not arrived from the device")
            time.sleep(_LOOK_S)
        parent = self._folder / incident / f"rank{self._hello.rank}"
        if folder_of(parent, last.step).exists():
            return
        for folder in (parent.parent.parent, parent.parent, parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        require_space(parent, last.bytes)
        files, missing = files_of(last.kept)
        about = {
            "run": self._hello.run,
            "rank": self._hello.rank,
            "host": self._hello.host,
            "holds": sorted(last.kept),
            "missing": missing,
            "learning_rates": [],
            "written_s": time.time(),
        }
        write_folder(parent, last.step, files, about)
        if last.has_batch:
            where = folder_of(parent, last.step)
            self._outbox.tell(last.step, "evidence", f"the batch of step {last.step} is in {where}")
