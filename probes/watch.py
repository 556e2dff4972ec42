"""One run as it is watched: its parts, how it begins, what it says, how it ends."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch

from lossguard.errors import StopTraining
from lossguard.home import Home
from lossguard.probes import leaving, patches, wire
from lossguard.probes.acting import Acting
from lossguard.probes.bundle import Bundle
from lossguard.probes.device_events import notice_loss
from lossguard.probes.link import Link
from lossguard.probes.listener import Listener
from lossguard.probes.living import LOOPS, Reason
from lossguard.probes.machine import Machine
from lossguard.probes.members import Members
from lossguard.probes.outbox import Outbox
from lossguard.probes.pinned import POOL
from lossguard.probes.recorder import Recorder
from lossguard.probes.senses import Senses
from lossguard.probes.shield import Shield
from lossguard.probes.tensors import copies_done
from lossguard.probes.training_state import TrainingState
from lossguard.probes.whereabouts import Place, standing

log = logging.getLogger("lossguard")

_MAX_WAITING = 1024
_COPIES_S = 0.1
"""The last copies from a device are waited for so long [s]."""
_LOOK_S = 0.01
_CAPTURED = (
    "optimizer.step() is captured into a CUDA graph, whose replays nobody can follow: the run is "
    "not watched any more"
)
_EVIDENCE_S = 0.5
"""What an incident has asked for at the very end is waited for so long [s]."""


class Watch(Listener):
    """What measures, acts and sends for one run; ``Loop`` says when."""

    def __init__(
        self,
        state: TrainingState,
        hello: wire.Hello,
        home: Home,
        *,
        start_agents: bool,
    ) -> None:
        self._state = state
        self._hello = hello
        self.run = hello.run
        self.step = 0
        self._at_end: list[Callable[[], None]] = []
        self._hooks_stay = False
        """Whether a captured update has left hooks that do nothing any more."""
        self._alive = True
        self._waiting: dict[str, wire.Command] = {}
        self._members = Members(state.optimizers, self._before_step, self._after_step)
        self._outbox = Outbox(hello.run, hello.rank)
        self._shield = Shield(self._report)
        self._recorder = Recorder(state, hello, self._shield)
        self._senses = self._recorder.senses
        self._device = self._recorder.device
        self._outbox.fit(self._recorder.values_per_step)
        self._acting = Acting(state, hello, self._device, self._outbox)
        self._senses.on_evaluation(self._hold_evaluated)
        last = self._recorder.last_steps
        self._bundle = Bundle(home.state / "incidents", hello, last, self._outbox)
        # Last what reaches into torch or starts a thread: nothing of it stays when the rest fails.
        self._machine = Machine(self._device)
        alive = weakref.ref(self._senses)  # the link outlives us, and must not keep us
        acts = weakref.ref(self._acting)
        self._link = Link(
            home,
            hello,
            self._outbox,
            start_agents=start_agents,
            often=self._machine.look,
            stands=lambda: (
                standing(senses.phases, senses.thread)
                if (senses := alive()) is not None
                else (0, Place("", ""))
            ),
            holds=lambda: acting.held() if (acting := acts()) is not None else [],
            keep=self._bundle.write,
        )
        try:
            self._listen()
        except BaseException:
            self._stop_listening()
            self._link.abandon()
            raise
        LOOPS.add(self)
        # For scripts that drop model and optimizer and never say close.
        weakref.finalize(self, _let_go, self._link, self._outbox, hello).atexit = False

    def _listen(self) -> None:
        # Before the senses: where there is no optimizer, a step ends as the next one begins.
        patches.listen(self)
        self._senses.open()
        self._members.open()
        leaving.tell(self._link)

    def at_end(self, function: Callable[[], None]) -> None:
        """Call it when nothing is listened to any more."""
        self._at_end.append(function)

    def _stop_listening(self, *, within_step: bool = False) -> None:
        # Torch walks over an optimizer's hooks as it calls one: there they stay, and do nothing.
        if not within_step:
            while self._at_end:
                self._at_end.pop()()
            self._members.close()
        self._senses.close()
        patches.stop_listening(self)
        leaving.tell_no_more(self._link)

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        raise NotImplementedError

    def _before_the_end(self) -> None:
        """What has begun shall be counted."""

    @property
    def own_time_ns(self) -> int:
        """Time spent in our code in the training thread so far."""
        return self._shield.own_time_ns

    @property
    def is_alive(self) -> bool:
        """Until it is closed."""
        return self._alive

    @property
    def senses(self) -> Senses:
        """What it hears with."""
        return self._senses

    @property
    def progress(self) -> Link:
        """What counts the steps; it outlives the loop."""
        return self._link

    def log(self, name: str, value: float) -> None:
        """A number of the script's own, to travel with the next step."""
        self._recorder.log(name, value)
        if name == "val_loss":
            self._hold_evaluated()

    def _hold_evaluated(self) -> None:
        """The state that is there now is what a validation loss is of."""
        held = self._acting.hold_evaluated
        self._shield.call("best state", held, self.step, self._link.limits)

    def only_observe(self, why: str) -> None:
        """Veto, snapshot and roll back no more: half of a training is not to be turned back."""
        if self._acting.only_observe(why):
            self.say("only_observing", f"{why}: nothing is skipped or rolled back")

    def only_veto(self, why: str) -> None:
        """Roll back no more; bad updates are still dropped."""
        if self._acting.only_veto(why):
            self.say("only_vetoing", f"{why}: bad updates are skipped, nothing is rolled back")

    def keep_batches(self) -> None:
        """Of the last steps, from now on."""
        self._recorder.last_steps.keep_batches()

    def _obey(self) -> None:
        while self._link.orders and len(self._waiting) < _MAX_WAITING:
            command = self._link.orders.popleft()
            self._waiting[command.command] = command
        for command in list(self._waiting.values()):
            del self._waiting[command.command]
            if not self._acting.obey(command, self.step):
                self._waiting[command.command] = command

    def take_snapshot_now(self, *, durable: bool = False) -> bool:
        """A snapshot of this very state, on disk as well; False when it failed."""
        taken = self._shield.call("snapshots", self._acting.snapshot, self.step, 0.0)
        if durable and taken is not None:
            return self._shield.call("snapshots", self._acting.to_disk, self.step) is True
        return taken is not None

    def resume(self) -> int | None:
        """Take up the state of the run before; its step, or None. Raises LossguardError."""
        if self.step:
            self.say("not_resumed", "resume() comes before the first step: nothing is taken up")
            return None
        return self._acting.resume()

    def _stop_if_told(self) -> None:
        if (reason := self._acting.orders.stop_reason) is not None:
            self.close("stopped")
            raise StopTraining(reason)

    def _report(self, part: str, what: str, trace: str) -> None:
        message = f"the {part} probe failed and is off: {what}"
        data: dict[str, float | int | str] = {"part": part, "trace": trace[-4000:]}
        self._outbox.tell(self.step, "probe_off", message, data)
        if part in ("step", "reflex", "orders"):
            self._acting.leave_others(message)

    def say(self, kind: str, message: str) -> None:
        """To the log and to the agent: something that a person should know."""
        log.warning("%s", message)
        self._outbox.tell(self.step, kind, message)

    def disable(self) -> None:
        """Do nothing from now on: in a forked child, which has neither the thread nor the right."""
        self._alive = False
        self._senses.disable()

    def close(self, reason: Reason, *, wait: bool = True) -> None:
        """Remove every hook, send what is left, say goodbye. Idempotent.

        Without ``wait`` the link's thread does the last two, and ends, in its own time.
        """
        if not self._alive:
            if self._hooks_stay:
                self._hooks_stay = False
                self._stop_listening()
            return
        self._before_the_end()
        self._alive = False
        self._shield.always("acting", self._acting.after_update)
        self._stop_listening()
        self._shield.call("last values", self._send_rest)
        self._leave(reason, wait=wait, finished=reason in ("finished", "closed"))

    def _leave_captured(self) -> None:
        """The update becomes part of a CUDA graph, whose replays call no hook: there is nothing to
        be seen from here on. Nothing may be queued, or waited for, meanwhile."""
        self.say("captured", _CAPTURED)
        self._alive = False
        self._hooks_stay = True
        self._stop_listening(within_step=True)
        # The training goes on: what is on disk may be needed after a crash.
        self._leave("closed", wait=False, finished=False)

    def _leave(self, reason: Reason, *, wait: bool, finished: bool) -> None:
        self._part(reason)
        devices = self._state.devices() if self._device.type == "cuda" else set()
        self._shield.always("device", notice_loss, devices)
        if wait:
            has_ended = self._link.close()
        else:
            has_ended = False
            self._link.abandon()
        self._bundle.settle(_EVIDENCE_S if wait else 0.0)
        self._acting.close(finished=finished)
        if has_ended:
            self._shield.always("memory", _give_memory_back, devices)

    def _part(self, reason: Reason, error: str = "") -> None:
        if reason == "exception":
            error = error or leaving.error_of_script()
            self._shield.call("evidence", self._bundle.write_last, self.step + 1)
        self._outbox.farewell = wire.Bye(
            run=self.run, rank=self._hello.rank, step=self.step, reason=reason, error=error
        )

    def _send_rest(self) -> None:
        if (rest := self._recorder.record_rest(self.step)) is not None:
            self._outbox.put(rest)


def _give_memory_back(devices: Iterable[torch.device]) -> None:
    """What was locked for copies that nobody holds any more, if the device is soon done with it."""
    done = copies_done(devices)
    by = time.monotonic() + _COPIES_S
    while done is not None and not done.query():
        if time.monotonic() > by:
            return
        time.sleep(_LOOK_S)
    POOL.trim()


def _let_go(link: Link, outbox: Outbox, hello: wire.Hello) -> None:
    """The script has dropped its model and its optimizer: that run is over."""
    if outbox.farewell is None:
        outbox.farewell = wire.Bye(
            run=hello.run, rank=hello.rank, step=link.step, reason="finished"
        )
    link.abandon()
