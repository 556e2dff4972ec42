"""The probe in the loop: what happens before and after every ``optimizer.step()``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lossguard.home import Home
from lossguard.probes import wire
from lossguard.probes.closures import Arguments, FirstCall, closure_in, evaluates_once, with_closure
from lossguard.probes.consumption import Consumption
from lossguard.probes.heard_before import HeardBefore
from lossguard.probes.measuring import Measuring
from lossguard.probes.nesting import is_nested
from lossguard.probes.parameters import optimizer_parameters
from lossguard.probes.training_state import TrainingState


class Loop(Measuring):
    """Measures the training of one loss, and acts on it where the policy says so.

    One optimizer or several that step on the same gradients, or none: then the script updates
    its parameters by itself, and a step is counted when it has used its gradients up.

    All methods named ``before_`` and ``after_`` are called by torch in the training thread; none
    raises (but StopTraining), waits for the network, or synchronises a device, except for the
    veto of an optimizer that is not fused (see ``reflex``).
    """

    def __init__(
        self,
        state: TrainingState,
        hello: wire.Hello,
        home: Home,
        *,
        start_agents: bool,
        writes_are_hidden: bool = False,
    ) -> None:
        self._in_step: Optimizer | None = None
        self._nested = 0
        self._stepped = False
        self._first_call: FirstCall | None = None
        parameters = optimizer_parameters(state)
        self._consumption = Consumption(parameters, writes_are_hidden=writes_are_hidden)
        super().__init__(state, hello, home, start_agents=start_agents)

    # --- what the finder asks, and says ---------------------------------------------------

    @property
    def is_in_step(self) -> bool:
        """Whether one of its optimizers is at work."""
        return self._in_step is not None

    @property
    def optimizers(self) -> list[Optimizer]:
        """Those that step for this loop."""
        return list(self._state.optimizers)

    def is_of_its_models(self, parameter: Tensor) -> bool:
        """Whether it belongs to what is trained here, by this optimizer or another."""
        return id(parameter) in self._state.ids_in_models()

    @property
    def has_stepped_on_its_gradients(self) -> bool:
        """Whether no ``backward()`` has reached the parameters since the last step."""
        return self.step > 0 and not self._members.new_gradients

    def take_over(self, heard: HeardBefore) -> None:
        """Go on from what was heard before this loop was there."""
        parameters = self._recorder.parameters
        self._senses.tap.take_over(heard.take_roots(parameters))
        norms, were_lost = heard.norms(parameters, self._senses.missing)
        if norms is None and not self._members:
            norms = heard.norms_traced(parameters, self._senses.missing)
        if norms is not None:
            self._senses.give_norms(norms)
        self._senses.gradients_unknown = were_lost

    def count_step_before(self) -> None:
        """A step without an optimizer is over that was heard before this loop was there."""
        self._senses.gradients_unknown = not self._senses.has_norms
        self._end_loose_step()

    def add(self, optimizer: Optimizer) -> None:
        """One more optimizer steps on the gradients of this loop."""
        self._acting.forget(optimizer)
        self._members.add(optimizer)
        self._shield.call("parameters", self._notice_parameters)

    def replace_by(self, optimizer: Optimizer) -> None:
        """The training goes on with another optimizer, in the place of those it shares with."""
        theirs = {id(p) for p in optimizer_parameters(optimizer)}
        for member in self.optimizers:
            if theirs & {id(p) for p in optimizer_parameters(member)}:
                self._members.drop(member)
                self._acting.forget(member)
        self.add(optimizer)

    # --- called by torch ------------------------------------------------------------------

    def before_backward(self, tensors: Any) -> None:
        if not self._senses.hears():
            return
        if self._members:
            self._shield.call("parameters", self._notice_parameters)
        else:
            self._step_if_used_up()
            self._stop_if_told()

    def after_backward(self) -> None:
        if not self._senses.hears() or not self._senses.was_reached:
            return
        self._members.new_gradients = True
        if not self._members:
            self._senses.measure_gradients()
            self._shield.timed("step", self._consumption.after_backward)
            if self._senses.is_sampled:
                self._shield.timed("weights", self._senses.weights.before_update)

    def passes_over_average(self, averaged: Any, model: Any) -> bool:
        if not self._senses.hears():
            return False
        return (
            self._shield.call("averages", self._acting.averages.passes_over, averaged, model)
            is True
        )

    def before_scaler_step(self, scaler: Any, optimizer: Any) -> None:
        if self._senses.hears() and optimizer in self._members:
            self._stepped = False
            if self._state.scaler is None:
                self._state.scaler = scaler

    def after_scaler_step(self, scaler: Any, optimizer: Any) -> None:
        """GradScaler dropped the update on its own: the loop reached the step all the same."""
        if not self._alive or self._stepped or optimizer not in self._members:
            return
        if self._members.begins(optimizer):
            code = torch.full_like(self._zero, wire.SKIP_SCALER)
            self._shield.timed("step", self._count_and_measure, optimizer, code)
        self._after_step(optimizer, (), {})

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> Arguments | None:
        if not self._alive:
            return None
        if self._senses.is_captured():
            self._leave_captured()
            return None
        if self._in_step is not None and optimizer is self._in_step and is_nested(optimizer):
            self._nested += 1
            return None
        self._nested = 0
        self._senses.this_thread_trains()
        self._stepped = True
        if self._in_step is not None:  # the last one raised: torch calls no hook then
            self._shield.always("acting", self._acting.step_died)
            self._senses.weights.forget()
        self._in_step = optimizer
        if (closure := closure_in(args, kwargs)) is None:
            self._first_call = None
            self._before_update(optimizer, may_veto=True)
            return None
        # Not before it has computed the gradients.
        may_veto = evaluates_once(optimizer)
        self._first_call = FirstCall(closure, lambda: self._before_update(optimizer, may_veto))
        return with_closure(args, kwargs, self._first_call)

    def _before_update(self, optimizer: Optimizer, may_veto: bool) -> None:
        """The gradients are there, and the update is next."""
        if not self._alive:
            return
        self._acting.orders.vetoes_possible = may_veto
        begins = self._members.begins(optimizer)
        try:
            if begins:
                self._shield.timed("step", self._count_and_measure, optimizer, None, may_veto)
            else:
                self._shield.timed("reflex", self._acting.also_before, optimizer, self._code)
                self._shield.call("learning rate", self._acting.hold_learning_rate, self.step)
            if not (self._shield.is_on("step") and self._shield.is_on("reflex")):
                self._shield.always("acting", self._acting.open_gate)
            if begins and self._senses.is_sampled:  # the coming step tells what this update did
                self._shield.timed("weights", self._senses.weights.before_update)
            self._senses.phases.begin("optimizer_time")
        except BaseException:  # Ctrl-C in our own code: the step will not happen
            self._shield.always("acting", self._acting.after_update)
            raise

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self._alive:
            return
        if self._nested:
            self._nested -= 1
            return
        self._senses.phases.end("optimizer_time")
        if self._first_call is not None and not self._first_call.has_returned:
            self._before_update(optimizer, may_veto=False)  # the closure was not called
        self._in_step, self._first_call = None, None
        self._shield.always("acting", self._acting.after_update)
        if self._members.is_complete():
            self._between_steps()

    def _between_steps(self) -> None:
        """All updates of the step are done: the one place where state may be read or changed."""
        self._shield.timed("weights", self._senses.weights.after_update, self._code)
        self._shield.timed("orders", self._obey)
        self._shield.call("schedules", self._acting.schedules.between_steps)
        self._shield.timed("snapshots", self._acting.snapshot_if_due, self.step, self._step_time_s)
        self._stop_if_told()

    def _step_if_used_up(self) -> None:
        """Without an optimizer: the gradients of the last ``backward()`` have gone their way."""
        if self._shield.timed("step", self._consumption.used_up):
            self._end_loose_step()

    def _end_loose_step(self) -> None:
        self.only_observe("the script updates its parameters without an optimizer")
        self._consumption.begin_anew()
        self._acting.orders.vetoes_possible = False
        self._shield.timed("weights", self._senses.weights.after_update, None)
        self._shield.timed("step", self._count_and_measure, None, self._zero)
        self._shield.timed("orders", self._obey)

    def _before_the_end(self) -> None:
        if not self._members and self._consumption.is_open:
            self._step_if_used_up()
