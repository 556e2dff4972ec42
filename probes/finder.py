"""Finds what is trained in a process, and by what: each loss that is minimised gets its loop."""

from __future__ import annotations

import atexit
import logging
import re
import threading
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from lossguard.probes.begun import Begun
from lossguard.probes.discover import fed_alongside, models_of, names_beside
from lossguard.probes.graph_capture import is_capturing
from lossguard.probes.heard_before import HeardBefore, same_backwards
from lossguard.probes.listener import Listener, LossCall
from lossguard.probes.loop import Loop
from lossguard.probes.parameters import optimizer_parameters
from lossguard.probes.roots import mark_as_sum
from lossguard.probes.schedules import schedulers_of
from lossguard.probes.training_state import TrainingState

log = logging.getLogger("lossguard")

_QUIET = 16
"""So many ``backward()`` calls in a row that told nothing new, and graphs are walked no more."""
_MOST_WALKS = 512


class Begin(Protocol):
    """Makes the loop that watches a state; None where that does not work."""

    def __call__(self, state: TrainingState, part: str, writes_are_hidden: bool) -> Loop | None: ...


_finders: weakref.WeakSet[Finder] = weakref.WeakSet()


class Finder(Listener):
    """Meets every optimizer that steps, and every ``backward()``, until all is known.

    Optimizers that update different parameters from the same losses share a loop. One that takes
    over the parameters of another goes on with its loop. Any other has a loss of its own, and with
    it a loop, a run, of its own. Where parameters change though no optimizer steps, the script is
    its own optimizer.

    After the first few steps it costs a dictionary look-up a step, and a microsecond a
    ``backward()``.
    """

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._here = threading.local()
        self._lock = threading.RLock()
        self._met: dict[int, tuple[weakref.ref[Optimizer], weakref.ref[Loop] | None]] = {}
        self._begun = Begun()
        self._replaced: list[weakref.ref[Optimizer]] = []
        self._quiet = 0
        self._walks_left = _MOST_WALKS
        self._said = False
        _finders.add(self)
        self.num_backwards = 0

    @property
    def loops(self) -> list[Loop]:
        """Those that are alive."""
        return self._begun.loops

    def say_what_was_not_found(self) -> None:
        """At the end: a script that trains in a way nobody could follow."""
        if self.num_backwards >= _QUIET and self._begun.number == 0:
            log.warning(
                "nothing was watched: backward() ran %d times, but no torch optimizer stepped and "
                "no parameter was changed in place",
                self.num_backwards,
            )

    # --- called by torch ------------------------------------------------------------------

    def before_step(self, optimizer: Optimizer, *, has_closure: bool) -> None:
        """``optimizer.step()`` is being called."""
        met = self._met.get(id(optimizer))
        if met is not None and met[0]() is optimizer:
            if met[1] is not None and met[1] is not getattr(self._here, "last", None):
                self._take_turns(met[1])
            return
        if is_capturing():
            return  # it becomes part of a graph, whose replays nobody can follow
        with self._lock:
            self._meet(optimizer, has_closure)

    def before_scaler_step(self, scaler: Any, optimizer: Any) -> None:
        heard = self._heard
        heard.scaler = scaler
        if isinstance(optimizer, Optimizer) and id(optimizer) not in self._met:
            try:
                self.before_step(optimizer, has_closure=False)
                for loop in self.loops:
                    if optimizer in loop.optimizers:
                        loop.before_scaler_step(scaler, optimizer)
            except Exception as error:
                self._complain(error)

    def on_scale(self, scaler: Any, loss: Any, scaled: Any) -> None:
        self._heard.on_scale(loss, scaled, walks=self._walks)

    def on_loss(self, call: LossCall) -> None:
        if not self._walks or not torch.is_grad_enabled():
            return
        try:
            if call.arguments().get("reduction") == "sum":
                mark_as_sum(call.result, call.name)
        except Exception as error:
            self._complain(error)

    def before_backward(self, tensors: Any) -> None:
        try:
            self._look_for_loose_ends()
            self._heard.before_backward(tensors, walks=self._walks)
        except Exception as error:
            self._complain(error)

    def after_backward(self) -> None:
        try:
            self._learn()
        except Exception as error:
            self._complain(error)

    def before_clip(self, parameters: Any, max_norm: Any) -> None:
        given = [parameters] if isinstance(parameters, Tensor) else parameters
        if self._walks:
            try:
                loops = self._loops_here()
                unknown = [p for p in given if not any(loop.senses.owns(p) for loop in loops)]
                self._heard.before_clip(unknown, measures=True)
            except Exception as error:
                self._complain(error)
        elif self._heard.backwards:
            self._heard.before_clip((), measures=False)

    # --- finding --------------------------------------------------------------------------

    @property
    def _heard(self) -> HeardBefore:
        heard: HeardBefore | None = getattr(self._here, "heard", None)
        if heard is None:
            heard = self._here.heard = HeardBefore()
        return heard

    @property
    def _walks(self) -> bool:
        return self._quiet < _QUIET and self._walks_left > 0

    def _loops_here(self) -> list[Loop]:
        return [loop for loop in self.loops if loop.senses.hears()]

    def _learn(self) -> None:
        """What the ``backward()`` that has just ended says about what is trained."""
        self.num_backwards += 1
        heard = self._heard
        loops = self._loops_here()
        reached = [loop for loop in loops if loop.senses.was_reached]
        walked = self._walks
        if reached and not walked:
            heard.forget_pending()
            return
        if (backward := heard.after_backward()) is None:
            return
        if walked:
            self._walks_left -= 1
        leaves = backward.leaves()
        unknown = [p for p in leaves if not any(loop.senses.owns(p) for loop in loops)]
        if leaves and not unknown:
            self._quiet += 1
            heard.forget(backward)
            return
        self._quiet = 0
        if len(unknown) == len(leaves):
            heard.trace_leaves(backward)

    def _meet(self, optimizer: Optimizer, has_closure: bool) -> None:
        parameters = optimizer_parameters(optimizer)
        if not has_closure and all(p.grad is None for p in parameters):
            return  # it updates nothing: this is not a step
        self._begun.forget_dropped()
        loops = self._loops_here()
        sharing = [loop for loop in loops if any(map(loop.senses.owns, parameters))]
        if any(loop.is_in_step for loop in sharing):
            self._met[id(optimizer)] = weakref.ref(optimizer), None  # wrapped by the one at work
            return
        heard = self._heard
        heard.forget_changes()
        comes_back = any(ref() is optimizer for ref in self._replaced)
        loop: Loop | None
        if sharing and not comes_back:
            most = max(sharing, key=lambda one: sum(map(one.senses.owns, parameters)))
            self._hand_over(most, optimizer)
            loop = most
        elif (loop := self._fed_with(optimizer, loops)) is not None:
            loop.add(optimizer)
        elif self._begun.is_worth_more(optimizer):
            loop = self._begin_loop(optimizer)
        else:
            return
        heard.forget_clipping()
        self._note(optimizer, loop)

    def _note(self, optimizer: Optimizer, loop: Loop | None) -> None:
        known = self._begun.reference(loop)
        self._met[id(optimizer)] = weakref.ref(optimizer), known
        self._here.last = known

    def _hand_over(self, loop: Loop, optimizer: Optimizer) -> None:
        before = loop.optimizers
        loop.replace_by(optimizer)
        for gone in before:
            if gone not in loop.optimizers:
                self._met.pop(id(gone), None)
                self._replaced = [*self._replaced[-_QUIET:], weakref.ref(gone)]

    def _fed_with(self, optimizer: Optimizer, loops: list[Loop]) -> Loop | None:
        """The loop that has stepped, since the last ``backward()``, on the very same losses.

        Where these are not known any more, the model must be the same.
        """
        parameters = optimizer_parameters(optimizer)
        backwards = [b for b in self._heard.backwards if any(map(b.reaches, parameters))]
        for loop in loops:
            if not loop.has_stepped_on_its_gradients:
                continue
            owned = [p for o in loop.optimizers for p in optimizer_parameters(o)]
            if backwards:
                is_fed = all(any(map(b.is_known_to_reach, owned)) for b in backwards)
            else:
                is_fed = any(map(loop.is_of_its_models, parameters))
            if is_fed:
                return loop
        return None

    def _begin_loop(self, optimizer: Optimizer) -> Loop | None:
        heard = self._heard
        is_fed = same_backwards(heard.backwards, optimizer_parameters(optimizer))
        optimizers = fed_alongside(optimizer, is_fed, lambda o: id(o) in self._met)
        state = TrainingState(None, optimizers, scaler=heard.scaler)
        state.schedulers = [s for o in optimizers for s in schedulers_of(o)]
        loop = self._begin_with(state, writes_are_hidden=False)
        for other in optimizers:
            self._note(other, loop)
        return loop

    def _begin_with(self, state: TrainingState, *, writes_are_hidden: bool) -> Loop | None:
        models = models_of(state)
        if models:
            state.model = models[0]
            state.others = names_beside(models)
        self._begun.number += 1
        self._quiet = 0
        self._walks_left = max(self._walks_left, _QUIET)
        loop = self._begin(state, self._part(state), writes_are_hidden)
        if loop is not None:
            self._begun.add(loop)
            loop.take_over(self._heard)
        return loop

    def _part(self, state: TrainingState) -> str:
        """What tells this run from the others of the process: nothing for the first."""
        if self._begun.number == 1:
            return ""
        kind = type(state.model).__name__ if state.model is not None else "parameters"
        return f"{self._begun.number}-{re.sub('[^A-Za-z0-9_]', '', kind)[:24]}"

    def _take_turns(self, current: weakref.ref[Loop]) -> None:
        """Another loop steps than the last time: they may belong together, as in a GAN."""
        before, self._here.last = getattr(self._here, "last", None), current
        last, loop = before and before(), current()
        if last is None or loop is None or not last.is_alive or not (loop.step and last.step):
            return
        for one in (last, loop):
            one.only_veto("several losses are trained in turn in this process")

    def _look_for_loose_ends(self) -> None:
        """A ``backward()`` begins: has the script used the gradients of the last one by itself?"""
        heard = self._heard
        changed, hidden = heard.look_for_changes()
        if not changed:
            return
        if self._begun.is_worth_more(changed[0]):
            state = TrainingState(None, [], loose=changed)
            loop = self._begin_with(state, writes_are_hidden=hidden)
            if loop is not None:
                loop.count_step_before()
        heard.forget_changes()

    def _say_once(self, what: str) -> None:
        if not self._said:
            self._said = True
            log.warning("%s", what)

    def _complain(self, error: Exception) -> None:
        self._say_once(f"lossguard could not look at a training ({error}); it goes on, unwatched")


def _at_exit() -> None:
    for finder in list(_finders):
        finder.say_what_was_not_found()


atexit.register(_at_exit)
