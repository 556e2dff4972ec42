"""The probe in the loop: what happens before and after every ``optimizer.step()``."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
import weakref
from collections import OrderedDict
from typing import Any, Literal

import torch
from torch import Tensor

from lossguard.errors import StopTraining
from lossguard.home import Home
from lossguard.probes import patches, wire
from lossguard.probes.acting import Acting
from lossguard.probes.discover import compiled_forms_of
from lossguard.probes.learning_rate import learning_rate
from lossguard.probes.link import Link
from lossguard.probes.listener import Listener
from lossguard.probes.losses import LossTap
from lossguard.probes.machine import Machine
from lossguard.probes.nesting import is_nested
from lossguard.probes.outbox import Lost, Outbox
from lossguard.probes.recorder import Recorder, inverse_scale
from lossguard.probes.senses import EVERY
from lossguard.probes.shield import Shield
from lossguard.probes.training_state import TrainingState

log = logging.getLogger("lossguard")

Reason = Literal["finished", "exception", "closed", "stopped"]

_loops: weakref.WeakSet[Loop] = weakref.WeakSet()
_MAX_WAITING = 1024
_SETTLED = 2
"""By this step every part of an ordinary loop has run once."""


class Loop(Listener):
    """Measures one optimizer's loop, and acts on it where the policy says so.

    All methods named ``before_`` and ``after_`` are called by torch in the training thread; none
    raises (but StopTraining), waits for the network, or synchronises a device, except for the
    veto of an optimizer that is not fused (see ``reflex``).
    """

    def __init__(
        self, state: TrainingState, hello: wire.Hello, home: Home, *, start_agents: bool
    ) -> None:
        self._state = state
        self._hello = hello
        self.run = hello.run
        self.step = 0
        self._last_step_s = 0.0
        self._step_time_s = 0.0
        self._in_step = False
        self._nested = 0
        self._stepped = False
        self._alive = True
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._waiting: dict[str, wire.Command] = {}
        self._outbox = Outbox(hello.run, hello.rank)
        self._shield = Shield(self._report)
        self._recorder = Recorder(state, hello, self._shield)
        self._senses = self._recorder.senses
        self._device = self._recorder.device
        self._outbox.fit(self._recorder.values_per_step)
        self._zero = torch.zeros((), dtype=torch.float32, device=self._device)
        self._code: Tensor | None = None
        self._acting = Acting(state, hello, self._device, self._outbox)
        # Last what reaches into torch or starts a thread: nothing of it stays when the rest fails.
        self._machine = Machine(self._device)
        self._link = Link(
            home, hello, self._outbox, start_agents=start_agents, often=self._machine.look
        )
        try:
            self._listen()
        except BaseException:
            self._stop_listening()
            self._link.abandon()
            raise
        _loops.add(self)
        # For scripts that drop model and optimizer and never say close.
        weakref.finalize(self, self._link.abandon).atexit = False

    def _listen(self) -> None:
        optimizer = self._state.optimizer
        self._senses.open()
        # A script may compile `optimizer.step()`: the hooks run around its graph, not inside.
        self._handles += [
            optimizer.register_step_pre_hook(torch.compiler.disable(self._before_step)),
            optimizer.register_step_post_hook(torch.compiler.disable(self._after_step)),
        ]
        # What a veto holds back is given back before anybody else looks at it.
        hooks = getattr(optimizer, "_optimizer_step_post_hooks", None)
        if isinstance(hooks, OrderedDict):
            hooks.move_to_end(self._handles[1].id, last=False)
        patches.listen(self)

    def _stop_listening(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._senses.close()
        patches.stop_listening(self)

    @property
    def own_time_ns(self) -> int:
        """Time spent in our code in the training thread so far."""
        return self._shield.own_time_ns

    def log(self, name: str, value: float) -> None:
        """A number of the script's own, to travel with the next step."""
        self._recorder.log(name, value)

    def only_observe(self, why: str) -> None:
        """Veto, snapshot and roll back no more: half of a training is not to be turned back."""
        if self._acting.only_observe(why):
            what = f"{why}: this run is observed, nothing is skipped or rolled back"
            log.warning("%s", what)
            self._tell("only_observing", what)

    def take_over(self, tap: LossTap, *, gradients_were_clipped: bool) -> None:
        """Go on from what ``tap`` has heard before this loop was there."""
        self._senses.tap.take_over(tap)
        self._senses.gradients_unknown = gradients_were_clipped

    # --- called by torch ------------------------------------------------------------------

    def before_scaler_step(self, scaler: Any, optimizer: Any) -> None:
        if self._senses.hears() and optimizer is self._state.optimizer:
            self._stepped = False
            if self._state.scaler is None:
                self._state.scaler = scaler

    def after_scaler_step(self, scaler: Any, optimizer: Any) -> None:
        """GradScaler dropped the update on its own: the loop reached the step all the same."""
        if not self._alive or optimizer is not self._state.optimizer:
            return
        if not self._stepped:
            code = torch.full_like(self._zero, wire.SKIP_SCALER)
            self._shield.timed("step", self._count_and_measure, code)
            self._after_step(optimizer, (), {})

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self._alive:
            return
        if self._in_step and is_nested(optimizer):
            self._nested += 1
            return
        self._nested = 0
        self._senses.this_thread_trains()
        self._stepped = True
        if self._in_step:  # the last one raised: torch calls no hook then
            self._shield.always("acting", self._acting.step_died)
            self._senses.weights.forget()
        self._in_step = True
        # torch hands a step hook the arguments of the unbound method: the optimizer comes first.
        closure = any(a is not None for a in args[1:]) or kwargs.get("closure") is not None
        try:
            self._shield.timed("step", self._count_and_measure, None, closure)
            if not (self._shield.is_on("step") and self._shield.is_on("reflex")):
                self._shield.always("acting", self._acting.open_gate)
            if self._senses.is_sampled:  # the coming step is: it tells what this update did
                self._shield.timed("weights", self._senses.weights.before_update)
        except BaseException:  # Ctrl-C in our own code: the step will not happen
            self._shield.always("acting", self._acting.after_update)
            raise

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self._alive:
            return
        if self._nested:
            self._nested -= 1
            return
        self._in_step = False
        self._shield.always("acting", self._acting.after_update)
        self._shield.timed("weights", self._senses.weights.after_update, self._code)
        self._shield.timed("orders", self._obey)
        self._shield.timed("snapshots", self._acting.snapshot_if_due, self.step, self._step_time_s)
        if (reason := self._acting.stop_reason) is not None:
            self.close("stopped")
            raise StopTraining(reason)

    # --- the step -------------------------------------------------------------------------

    def _count_and_measure(self, forced_code: Tensor | None, closure: bool = False) -> None:
        self.step += 1
        self._link.step = self.step
        now = time.monotonic()
        self._step_time_s = now - self._last_step_s if self._last_step_s else 0.0
        self._last_step_s = now
        self._code = forced_code
        heard = self._senses.take(closure, inverse_scale(self._state.optimizer))
        rate = learning_rate(self._state.optimizer)
        self._acting.vetoes_possible = not closure
        if forced_code is None and not closure:
            total = None if heard.norms is None else heard.norms[1]
            judged = (total, heard.loss, self._link.limits)
            self._code = self._shield.call("reflex", self._acting.before_update, *judged)
        self._shield.call("learning rate", self._acting.hold_learning_rate, self.step)
        host = {"lr": rate, "step_time": self._step_time_s or None, **self._machine.take()}
        code = self._zero if self._code is None else self._code
        measured = self._recorder.record(self.step, now, heard, code, host)
        self._outbox.put(Lost(self.step) if measured is None else measured)
        self._senses.is_sampled = (self.step + 1) % EVERY == 0
        self._shield.call("surroundings", self._look_around)

    def _look_around(self) -> None:
        """What the script has brought in since: other ways to save, a compiled model."""
        patches.notice_imports()
        if self.step == _SETTLED and not self._senses.has_heard_a_forward:
            for compiled in compiled_forms_of(self._state.model):
                self._senses.hear_forwards_of(compiled)

    def _obey(self) -> None:
        while self._link.orders and len(self._waiting) < _MAX_WAITING:
            command = self._link.orders.popleft()
            self._waiting[command.command] = command
        for command in list(self._waiting.values()):
            del self._waiting[command.command]
            if not self._acting.obey(command, self.step):
                self._waiting[command.command] = command

    def take_snapshot_now(self) -> bool:
        """A snapshot of this very state; False when it failed."""
        taken = self._shield.call("snapshots", self._acting.snapshot, self.step, 0.0)
        return taken is not None

    # --- around it ------------------------------------------------------------------------

    def _report(self, part: str, what: str, trace: str) -> None:
        message = f"the {part} probe failed and is off: {what}"
        self._tell("probe_off", message, {"part": part, "trace": trace[-4000:]})

    def _tell(
        self, kind: str, message: str, data: dict[str, float | int | str] | None = None
    ) -> None:
        self._outbox.say(
            wire.Event(
                run=self.run,
                rank=self._hello.rank,
                step=self.step,
                kind=kind,
                message=message,
                data=data or {},
            )
        )

    def disable(self) -> None:
        """Do nothing from now on: in a forked child, which has neither the thread nor the right."""
        self._alive = False
        self._senses.disable()

    def close(self, reason: Reason) -> None:
        """Remove every hook, send what is left, say goodbye. Idempotent."""
        if not self._alive:
            return
        self._alive = False
        self._shield.always("acting", self._acting.after_update)
        self._stop_listening()
        self._shield.call("last values", self._send_rest)
        self._outbox.farewell = wire.Bye(
            run=self.run, rank=self._hello.rank, step=self.step, reason=reason
        )
        self._link.close()
        self._acting.close()

    def _send_rest(self) -> None:
        if (rest := self._recorder.record_rest(self.step)) is not None:
            self._outbox.put(rest)


def _close_at_exit() -> None:
    reason: Reason = "finished"
    if getattr(sys, "last_type", None) is not None:
        reason = "exception"
    for loop in list(_loops):
        loop.close(reason)


def _disable_in_child() -> None:
    for loop in list(_loops):
        loop.disable()


os.register_at_fork(after_in_child=_disable_in_child)
atexit.register(_close_at_exit)
