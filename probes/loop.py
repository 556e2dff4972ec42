"""The probe in the loop: what happens before and after every ``optimizer.step()``."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lossguard.errors import StopTraining
from lossguard.home import Home
from lossguard.probes import patches, wire
from lossguard.probes.acting import Acting
from lossguard.probes.activations import ActivationNorms, Hook
from lossguard.probes.gradients import GradientNorms, Norms
from lossguard.probes.learning_rate import learning_rate
from lossguard.probes.link import Link
from lossguard.probes.losses import LossTap
from lossguard.probes.measurement import Measurement
from lossguard.probes.outbox import Lost, Outbox
from lossguard.probes.parameters import named_parameters, watched_modules
from lossguard.probes.shield import Shield
from lossguard.probes.training_state import TrainingState

log = logging.getLogger("lossguard")

_loops: weakref.WeakSet[Loop] = weakref.WeakSet()
_MAX_WAITING = 1024
_MAX_LOGGED = 1000


class Loop:
    """Measures one optimizer's loop, and acts on it where the policy says so.

    All methods named ``on_``, ``before_`` and ``after_`` are called by torch in the training
    thread; none raises (but StopTraining), waits for the network, or synchronises a device,
    except for the veto of an optimizer that is not fused (see ``reflex``).
    """

    def __init__(
        self, state: TrainingState, hello: wire.Hello, home: Home, *, start_agents: bool
    ) -> None:
        named = named_parameters(state.model, state.optimizer)
        if not named:
            raise ValueError("the optimizer has no parameters")
        parameters = [p for _, p in named]
        self._state = state
        self._hello = hello
        self.run = hello.run
        self.step = 0
        self.logged: dict[str, float] = {}
        self._logged_names: set[str] = set()
        self.own_time_ns = 0
        self._device = _main_device(parameters)
        self._outbox = Outbox(hello.run, hello.rank)
        self._shield = Shield(self._report)
        modules = watched_modules(state.model) if state.model is not None else []
        self._measurement = Measurement(
            hello.run, hello.rank, [n for n, _ in named], [n for n, _ in modules], self._device
        )
        self._outbox.fit(self._measurement.size)
        self._tap = LossTap(parameters)
        self._owned = {id(p) for p in parameters}
        self._gradients = GradientNorms(parameters, self._device, self._measurement.missing)
        self._norms: Norms | None = None
        self.gradients_unknown = False
        """The gradients of the coming step are not as ``backward()`` left them: do not measure."""
        self._last_step_s = 0.0
        self._step_time_s = 0.0
        self._in_step = False
        self._stepped = False
        self._alive = True
        self._thread = threading.get_ident()
        self._waiting: dict[str, wire.Command] = {}
        self._zero = torch.zeros((), dtype=torch.float32, device=self._device)
        self._acting = Acting(state, hello, self._device, self._outbox)
        # Last what reaches into torch or starts a thread: nothing of it stays when the rest fails.
        self._link = Link(home, hello, self._outbox, start_agents=start_agents)
        self._activations = ActivationNorms([m for _, m in modules], self._guarded)
        # A script may compile `optimizer.step()`: the hooks run around its graph, not inside.
        self._handles = [
            state.optimizer.register_step_pre_hook(torch.compiler.disable(self._before_step)),
            state.optimizer.register_step_post_hook(torch.compiler.disable(self._after_step)),
        ]
        # What a veto holds back is given back before anybody else looks at it.
        hooks = getattr(state.optimizer, "_optimizer_step_post_hooks", None)
        if isinstance(hooks, OrderedDict):
            hooks.move_to_end(self._handles[1].id, last=False)
        patches.listen(self)
        _loops.add(self)
        # For scripts that drop model and optimizer and never say close.
        weakref.finalize(self, self._link.abandon).atexit = False

    def log(self, name: str, value: float) -> None:
        """A number of the script's own, to travel with the next step."""
        if name not in self._logged_names:
            if len(self._logged_names) >= _MAX_LOGGED:
                log.warning("guard.log(%s=...): over %d names; ignored", name, _MAX_LOGGED)
                return
            self._logged_names.add(name)
        self.logged[name] = value

    def only_observe(self, why: str) -> None:
        """Veto, snapshot and roll back no more: half of a training is not to be turned back."""
        if self._acting.only_observe(why):
            what = f"{why}: this run is observed, nothing is skipped or rolled back"
            log.warning("%s", what)
            self._tell("only_observing", what)

    def take_over(self, tap: LossTap, *, gradients_were_clipped: bool) -> None:
        """Go on from what ``tap`` has heard before this loop was there."""
        self._tap.take_over(tap)
        self.gradients_unknown = gradients_were_clipped

    # --- called by torch ------------------------------------------------------------------

    def _hears(self) -> bool:
        """Whether this is the thread that trains with our optimizer.

        Another one must not even look at our gradients: they may be freed under its hands.
        """
        return self._alive and threading.get_ident() == self._thread

    def before_backward(self, tensors: Any) -> None:
        if self._hears():
            self._timed("loss", self._tap.before_backward, tensors)

    def after_backward(self) -> None:
        if self._hears() and self._timed("loss", self._tap.after_backward) is not False:
            self._norms = None

    def on_scale(self, scaler: Any, loss: Any, scaled: Any) -> None:
        if self._hears():
            self._timed("loss", self._tap.on_scale, loss, scaled)

    def before_scaler_step(self, scaler: Any, optimizer: Any) -> None:
        if self._hears() and optimizer is self._state.optimizer:
            self._stepped = False
            if self._state.scaler is None:
                self._state.scaler = scaler

    def before_clip(self, parameters: Any) -> None:
        if self._hears() and self._norms is None and self._is_ours(parameters):
            self._norms = self._timed("gradients", self._gradients.measure)

    def after_scaler_step(self, scaler: Any, optimizer: Any) -> None:
        """GradScaler dropped the update on its own: the loop reached the step all the same."""
        if not self._alive or optimizer is not self._state.optimizer:
            return
        if not self._stepped:
            code = torch.full_like(self._zero, wire.SKIP_SCALER)
            self._timed("step", self._count_and_measure, code)
            self._after_step(optimizer, (), {})

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self._alive:
            return
        self._thread = threading.get_ident()
        self._stepped = True
        if self._in_step:  # the last one raised: torch calls no hook then
            self._shield.always("acting", self._acting.step_died)
        self._in_step = True
        # torch hands a step hook the arguments of the unbound method: the optimizer comes first.
        closure = any(a is not None for a in args[1:]) or kwargs.get("closure") is not None
        try:
            self._timed("step", self._count_and_measure, None, closure)
            if not (self._shield.is_on("step") and self._shield.is_on("reflex")):
                self._shield.always("acting", self._acting.open_gate)
        except BaseException:  # Ctrl-C in our own code: the step will not happen
            self._shield.always("acting", self._acting.after_update)
            raise

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self._alive:
            return
        self._in_step = False
        self._shield.always("acting", self._acting.after_update)
        self._timed("orders", self._obey)
        self._timed("snapshots", self._acting.snapshot_if_due, self.step, self._step_time_s)
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
        loss = self._tap.take()
        norms = self._norms
        self._norms = None
        unknown, self.gradients_unknown = self.gradients_unknown, False
        if norms is None and not closure and not unknown:
            inverse = _inverse_scale(self._state.optimizer)
            norms = self._shield.call("gradients", self._gradients.measure, inverse)
        gradient_norms, total = norms or (None, None)
        rate = learning_rate(self._state.optimizer)
        code = forced_code
        self._acting.vetoes_possible = not closure
        if code is None and not closure:
            bounds = self._link.limits
            code = self._shield.call("reflex", self._acting.before_update, total, loss, bounds)
        self._shield.call("learning rate", self._acting.hold_learning_rate, self.step)
        self._send(loss, total, gradient_norms, code, rate, now)

    def _send(
        self,
        loss: Tensor | None,
        total: Tensor | None,
        gradient_norms: Tensor | None,
        code: Tensor | None,
        rate: float | None,
        now: float,
    ) -> None:
        activation_norms, factors = self._activations.take()
        vector = self._measurement.assemble(
            loss=loss,
            total_norm=total,
            loss_scale=getattr(self._state.scaler, "_scale", None),
            skipped=self._zero if code is None else code,
            gradient_norms=gradient_norms,
            activation_norms=activation_norms,
        )
        logged, self.logged = self.logged, {}
        host = {"lr": rate, "step_time": self._step_time_s or None, **logged}
        measured = self._measurement.pack(
            self.step, now, vector, host, factors, counts_as_update=True
        )
        self._outbox.put(Lost(self.step) if measured is None else measured)

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

    def _timed(self, part: str, function: Callable[..., Any], *args: Any) -> Any:
        begun = time.perf_counter_ns()
        try:
            return self._shield.call(part, function, *args)
        finally:
            self.own_time_ns += time.perf_counter_ns() - begun

    def _guarded(self, hook: Hook) -> Hook:
        @functools.wraps(hook)
        def guarded(module: nn.Module, args: Any, output: Any) -> None:
            if not torch.compiler.is_compiling() and self._hears():
                self._timed("activations", hook, module, args, output)

        return guarded

    def _is_ours(self, parameters: Any) -> bool:
        if isinstance(parameters, Tensor):
            parameters = [parameters]
        return any(id(p) in self._owned for p in parameters)

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

    def close(self, reason: Literal["finished", "exception", "closed", "stopped"]) -> None:
        """Remove every hook, send what is left, say goodbye. Idempotent."""
        if not self._alive:
            return
        self._alive = False
        self._shield.always("acting", self._acting.after_update)
        for handle in self._handles:
            handle.remove()
        self._activations.close()
        patches.stop_listening(self)
        self._shield.call("last values", self._send_logged)
        self._farewell(reason)
        self._link.close()
        self._acting.close()

    def _send_logged(self) -> None:
        if not self.logged:
            return
        last = self._measurement.pack(
            self.step, time.monotonic(), None, dict(self.logged),
            np.empty(0, dtype=np.float32), counts_as_update=False,
        )  # fmt: skip
        if last is not None:
            self._outbox.put(last)

    def _farewell(self, reason: Literal["finished", "exception", "closed", "stopped"]) -> None:
        self._outbox.farewell = wire.Bye(
            run=self.run, rank=self._hello.rank, step=self.step, reason=reason
        )


def _main_device(parameters: Sequence[Tensor]) -> torch.device:
    """Where the values of a step come together: bringing them to the CPU would wait for each."""
    devices = [p.device for p in parameters]
    return next((device for device in devices if device.type != "cpu"), devices[0])


def _inverse_scale(optimizer: torch.optim.Optimizer) -> Tensor | None:
    """1 / loss scale, where GradScaler leaves the un-scaling to a fused kernel."""
    scale = getattr(optimizer, "grad_scale", None)
    return scale.reciprocal() if isinstance(scale, Tensor) else None


def _close_at_exit() -> None:
    reason: Literal["finished", "exception"] = "finished"
    if getattr(sys, "last_type", None) is not None:
        reason = "exception"
    for loop in list(_loops):
        loop.close(reason)


def _disable_in_child() -> None:
    for loop in list(_loops):
        loop.disable()


os.register_at_fork(after_in_child=_disable_in_child)
atexit.register(_close_at_exit)
