"""A watch that begins by itself, with whatever is trained in the process."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer
from torch.optim.optimizer import Optimizer

from lossguard.policy_choice import ChosenPolicy
from lossguard.probes import patches
from lossguard.probes.beginning import begin
from lossguard.probes.closures import closure_in
from lossguard.probes.finder import Finder
from lossguard.probes.living import loops_alive
from lossguard.probes.loop import Loop
from lossguard.probes.training_state import TrainingState

log = logging.getLogger("lossguard")

_HOOK = -1
"""The key of our hook among torch's, which count from 0."""

_self_attaching: SelfAttaching | None = None


def watch_what_trains(
    choose: Callable[[], ChosenPolicy],
    name: str | None,
    *,
    begins: Callable[[], None] = lambda: None,
) -> SelfAttaching:
    """Attach to what is trained in this process, from within its first step.

    ``choose`` says under which policy, and is asked only then: a process that does not train pays
    for nothing. ``begins`` is called just before. A later call takes the place of an earlier one.
    """
    armed = SelfAttaching(choose, name, begins=begins)
    armed.arm()
    return armed


def self_attaching() -> SelfAttaching | None:
    """The one that is armed in this process."""
    return _self_attaching


class SelfAttaching:
    """Changes torch when armed, and puts it back when disarmed.

    ``joins_late`` is for a training that goes on already: what is under way when it is armed
    counts for nothing, and the watch begins with the first step that it has heard all of.
    """

    def __init__(
        self,
        choose: Callable[[], ChosenPolicy],
        name: str | None,
        *,
        begins: Callable[[], None] = lambda: None,
        begun: Callable[[Loop], None] = lambda loop: None,
        start_agents: bool = True,
        joins_late: bool = False,
    ) -> None:
        self._choose = choose
        self._chosen: ChosenPolicy | None = None
        self._name = name
        self._begins = begins
        self._begun = begun
        self._start_agents = start_agents
        self._joins_late = joins_late
        self._waits_for_boundary = joins_late
        self._waits_for_backward = joins_late
        self._finder = Finder(self._begin)
        self._gave_up = False

        def before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            self._before_step(optimizer, args, kwargs)

        # torch's own way to say torch.compiler.disable without importing the compiler yet.
        self._hook = getattr(torch, "_disable_dynamo", torch.compiler.disable)(before_step)

    @property
    def loops(self) -> list[Loop]:
        """What it watches."""
        return self._finder.loops

    def arm(self) -> None:
        """In the place of whoever was armed before. Not while a step's hooks are called."""
        global _self_attaching
        if _self_attaching is not None:
            _self_attaching.disarm()
        if not self._waits_for_boundary:
            patches.listen(self._finder)
        hooks()[_HOOK] = self._hook
        _self_attaching = self

    def disarm(self) -> None:
        """What is watched stays so. Not while a step's hooks are called."""
        global _self_attaching
        if hooks().get(_HOOK) is self._hook:
            del hooks()[_HOOK]
        patches.stop_listening(self._finder)
        if _self_attaching is self:
            _self_attaching = None

    def begin_again(self) -> None:
        """In a forked child: should it train, that is a run of its own."""
        finder = Finder(self._begin)
        if not self._waits_for_boundary:
            patches.listen(finder)  # before the old one goes, and torch is put back for a moment
        self._finder = finder

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._gave_up:
            return
        try:
            if self._waits_for_boundary:
                self._waits_for_boundary = False
                patches.listen(self._finder)
            elif self._waits_for_backward and self._finder.num_backwards == 0:
                return
            else:
                self._waits_for_backward = False
                has_closure = closure_in(args, kwargs) is not None
                self._finder.before_step(optimizer, has_closure=has_closure)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Say so once, and try no more."""
        if not self._gave_up:
            self._gave_up = True
            what = f"{type(error).__name__}: {error}"
            log.error("could not attach (%s); training goes on, unwatched", what)
            patches.stop_listening(self._finder)

    def _begin(self, state: TrainingState, part: str, writes_are_hidden: bool) -> Loop | None:
        ours = self._finder.loops
        if any(loop not in ours for loop in loops_alive()):
            return None  # the script has attached by itself, and knows better
        try:
            if self._chosen is None:
                self._begins()
                self._chosen = self._choose()
            loop = begin(
                state,
                self._chosen,
                self._name,
                part=part,
                start_agents=self._start_agents,
                writes_are_hidden=writes_are_hidden,
                joins_late=self._joins_late,
            )
        except Exception as error:
            self._give_up(error)
            return None
        self._begun(loop)
        return loop


def hooks() -> dict[int, Any]:
    """What torch calls before the step of any optimizer."""
    found: dict[int, Any] = torch_optimizer._global_optimizer_pre_hooks
    return found


def _begin_again_in_child() -> None:
    if _self_attaching is not None:
        _self_attaching.begin_again()


os.register_at_fork(after_in_child=_begin_again_in_child)
