"""All that is heard of a training between two optimizer steps, and kept for the second."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossguard.probes import patches
from lossguard.probes.activations import ActivationNorms
from lossguard.probes.discover import entrance_of
from lossguard.probes.evaluation import Evaluated, Evaluation
from lossguard.probes.gradients import GradientNorms, Norms
from lossguard.probes.graph_capture import is_capturing_on
from lossguard.probes.hooks import Hooks
from lossguard.probes.inputs import Inputs, InputStatistics
from lossguard.probes.listener import Listener, LossCall
from lossguard.probes.losses import LossTap
from lossguard.probes.measurement import Sampled, Scaled, missing_value
from lossguard.probes.modes import Modes
from lossguard.probes.moments import SecondMoments
from lossguard.probes.outputs import OutputStatistics
from lossguard.probes.phases import Phases
from lossguard.probes.shield import Shield
from lossguard.probes.units import UnitShares
from lossguard.probes.waiting import DataWait
from lossguard.probes.weights import Weights

_thread = threading.get_ident

EVERY = 16
"""Steps from one sampled step to the next."""


class Heard(NamedTuple):
    """Of one step. Device tensors are float32; None is not measured."""

    loss: Tensor | None
    norms: Norms | None
    activations: Scaled
    inputs: Inputs
    evaluated: Evaluated
    host: dict[str, float | None]


class Senses(Listener):
    """Listens to torch in the training thread, each part behind the shield.

    The parts that only a sampled step has are awake while ``is_sampled``. Nothing here waits for
    a device, changes a number, or raises.
    """

    def __init__(
        self,
        model: nn.Module | None,
        parameters: list[Tensor],
        modules: Sequence[nn.Module],
        device: torch.device,
        shield: Shield,
    ) -> None:
        missing = missing_value(device)
        self._model = model
        self._shield = shield
        self._alive = True
        self.is_captured = is_capturing_on(device)
        """Whether what is queued now becomes part of a CUDA graph: nothing is measured then."""
        self._thread = threading.get_ident()
        self.missing = missing
        self._owned: set[int] = set()
        self._modes = Modes(model)
        self._norms: Norms | None = None
        self._max_norm: float | None = None
        self._share_in_eval: float | None = None
        self._saved_s = time.monotonic()
        self._saving_since_s = 0.0
        self._waits = DataWait()
        self.phases = Phases()
        self.inputs = InputStatistics()
        self.outputs = OutputStatistics(missing)
        self._evaluation = Evaluation(self._modes)
        self._hooks = Hooks()
        self.tap = LossTap()
        self.activations = ActivationNorms(modules)
        self.units = UnitShares(model)
        self.on_inputs: Callable[[tuple[Any, ...], Mapping[str, Any]], None] = _ignore
        self.on_target: Callable[[LossCall], None] = _ignore_loss
        self.has_heard_a_forward = False
        self._is_sampled = False
        self.gradients_unknown = False
        """The gradients of the coming step are not as ``backward()`` left them: do not measure."""
        self.was_reached = False
        """Whether the last ``backward()`` of our thread was one of ours."""
        self.watch(parameters)

    def watch(self, parameters: list[Tensor]) -> None:
        """It is these that the script updates, from now on."""
        was_clipped = self._norms is not None
        self._owned = {id(p) for p in parameters}
        self._num_trained = sum(p.requires_grad for p in parameters)
        self._gradients = GradientNorms(parameters, self.missing.device, self.missing)
        self._norms = None
        self.gradients_unknown |= was_clipped
        self.tap.watch(parameters)
        self.weights = Weights(parameters, self.missing)
        self.moments = SecondMoments(parameters, self.weights.watched, self.missing)

    def owns(self, parameter: Tensor) -> bool:
        """Whether it is one of those."""
        return id(parameter) in self._owned

    def open(self) -> None:
        """Begin to listen. Leaves nothing behind when it fails."""
        try:
            for module, hook in self.activations.hooks():
                self._hooks.after_forward(module, self._guarded("activations", module, hook))
            for module, hook in self.units.hooks():
                awake = self._guarded("units", module, hook, sampled=True)
                self._hooks.after_forward(module, awake)
            self.hear_forwards_of(self._model)
            patches.listen(self)
        except BaseException:
            self.close()
            raise

    def hear_forwards_of(self, model: nn.Module | None) -> None:
        """The watched model, or what ``torch.compile`` made of it."""
        if model is not None:
            self._hooks.before_forward(entrance_of(model), self._before_forward)

    def close(self) -> None:
        """Hear no more. Idempotent."""
        self._alive = False
        self._hooks.remove()
        patches.stop_listening(self)

    def disable(self) -> None:
        """Hear nothing from now on, without touching torch."""
        self._alive = False

    @property
    def is_sampled(self) -> bool:
        """Whether the step that is under way is one of every 16."""
        return self._is_sampled

    @is_sampled.setter
    def is_sampled(self, value: bool) -> None:
        self._is_sampled = self.activations.measure_absmax = self.inputs.measure_mean = value

    @contextmanager
    def in_silence(self) -> Iterator[None]:
        """What runs inside is no training of the script's: hear nothing of it."""
        was_alive, self._alive = self._alive, False
        try:
            yield
        finally:
            self._alive = was_alive

    def hears(self) -> bool:
        """Whether this is the thread that trains with our optimizer, and no graph is captured.

        Another one must not even look at our gradients: they may be freed under its hands.
        """
        here = self._alive and threading.get_ident() == self._thread
        return here and not self.is_captured()

    @property
    def thread(self) -> int:
        """The one that trains."""
        return self._thread

    def this_thread_trains(self) -> None:
        """It has just called the optimizer."""
        self._thread = threading.get_ident()

    # --- called by torch --------------------------------------------------------------------

    def _before_forward(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if _is_traced() or not self.hears():
            return
        self.has_heard_a_forward = True
        training = torch.is_grad_enabled()
        self._waits.forward_begins(training)
        self.phases.forward_begins(training)
        if training:
            self._shield.timed("inputs", self._look_at_inputs, args, kwargs)
        else:
            self._shield.timed("evaluation", self._evaluation.forward_begins)

    def _look_at_inputs(self, args: tuple[Any, ...], kwargs: Any) -> None:
        self.on_inputs(args, kwargs)
        self.inputs.look(args, kwargs)

    def _guarded(
        self,
        part: str,
        watched: nn.Module,
        hook: Callable[..., None],
        *,
        sampled: bool = False,
    ) -> Callable[..., None]:
        """``hook`` behind the shield; with ``sampled`` only at sampled steps."""
        # A module's hook runs between two large kernels, with nothing of ours in the processor's
        # caches: each function called costs microseconds there.
        timed, is_captured = self._shield.timed, self.is_captured

        def guarded(module: nn.Module, args: Any, output: Any) -> None:
            if (
                not _is_traced()
                and module is watched
                and self._alive
                and _thread() == self._thread
                and (not sampled or self._is_sampled)
                and not is_captured()
            ):
                timed(part, hook, module, args, output)

        return guarded

    def on_evaluation(self, begins: Callable[[], None]) -> None:
        """Call it as an evaluation begins. It must not raise."""
        self._evaluation.on_begin = begins

    def on_loss(self, call: LossCall) -> None:
        if _is_traced() or not self.hears():
            return
        self._shield.timed("evaluation", self._evaluation.on_loss, call)
        if not torch.is_grad_enabled():
            return
        self._shield.timed("evidence", self.on_target, call)
        if self.is_sampled and call.name == "cross_entropy":
            self._shield.timed("outputs", self._look_at_outputs, call)

    def _look_at_outputs(self, call: LossCall) -> None:
        given = call.arguments()
        self.outputs.look(given["input"], given["target"], given["ignore_index"])

    def before_backward(self, tensors: Any) -> None:
        if self.hears():
            self.phases.backward_begins()
            self._shield.timed("loss", self.tap.before_backward, tensors)
            self._shield.call("evaluation", self._evaluation.learn_from_roots, tensors)

    def after_backward(self) -> None:
        if not self.hears():
            return
        self.phases.end("backward_time")
        self.was_reached = self._shield.timed("loss", self.tap.after_backward) is not False
        if self.was_reached:
            self._norms = None
            if self._share_in_eval is None:
                self._shield.timed("modes", self._look_at_modes)

    def _look_at_modes(self) -> None:
        share = self._modes.share_in_training()
        self._share_in_eval = None if share is None else 1.0 - share

    def on_scale(self, scaler: Any, loss: Any, scaled: Any) -> None:
        if self.hears():
            self._shield.timed("loss", self.tap.on_scale, loss, scaled)
            self._shield.call("evaluation", self._evaluation.learn_from_roots, loss)

    def after_norms(self, found: list[tuple[Tensor, Tensor]]) -> None:
        if self.hears():
            self._shield.timed("gradients", self._gradients.note, found)

    def before_clip(self, parameters: Any, max_norm: Any) -> None:
        if self.hears():
            self._shield.timed("gradients", self._before_clip, parameters, max_norm)

    def _before_clip(self, parameters: Any, max_norm: Any) -> None:
        given = [parameters] if isinstance(parameters, Tensor) else parameters
        ours = sum(id(p) in self._owned for p in given)
        if ours == 0:
            return
        self.tap.expect_writes()
        if self._norms is None:
            self._norms = self._gradients.measure(clips=True)
        # A bound for a part of them is none for the norm of all.
        if isinstance(max_norm, (int, float)) and ours >= self._num_trained:
            self._max_norm = float(max_norm) if math.isfinite(max_norm) else None

    def after_wait(self, seconds: float) -> None:
        if self.hears() and torch.is_grad_enabled():
            self._waits.add(seconds)

    def before_reading_modules(self) -> None:
        if self.hears():  # else forwards may be running meanwhile
            self._saving_since_s = time.perf_counter()
            self._shield.call("hooks", self._hooks.take_off)

    def after_reading_modules(self) -> None:
        self._shield.always("hooks", self._hooks.put_back)

    def after_save(self) -> None:
        self._saved_s = time.monotonic()
        if self.hears() and self._saving_since_s:
            self.phases.add("checkpoint_time", time.perf_counter() - self._saving_since_s)
            self._saving_since_s = 0.0

    # --- called by the loop -----------------------------------------------------------------

    @property
    def has_norms(self) -> bool:
        """Whether the gradients of the coming step have been measured."""
        return self._norms is not None

    def measure_gradients(self) -> None:
        """Now, and not when the loop asks: the script may use them up before that."""
        self._norms = self._shield.timed("gradients", self._gradients.measure)

    def give_norms(self, norms: Norms) -> None:
        """They were measured by somebody else, before the loop was there."""
        self._norms = norms

    def take(self, inverse_scale: Tensor | None) -> Heard:
        """What was heard since the last step. Gradients that no clipping measured are, now."""
        loss = self.tap.take()
        norms, self._norms = self._norms, None
        unknown, self.gradients_unknown = self.gradients_unknown, False
        if norms is None and not unknown:
            norms = self._shield.call("gradients", self._gradients.measure, inverse_scale)
        inputs = self.inputs.take()
        host: dict[str, float | None] = {
            "max_norm": self._max_norm,
            "train_in_eval": self._share_in_eval,
            "input_length": inputs.length,
            "input_batch": inputs.batch,
            **self.phases.take(),
            "data_wait": self._waits.take(),
            "checkpoint_age": time.monotonic() - self._saved_s,
        }
        self._max_norm = self._share_in_eval = None
        evaluated = self._shield.call("evaluation", self._evaluation.take) or Evaluated()
        activations = Scaled(*self.activations.take())
        return Heard(loss, norms, activations, inputs, evaluated, host)

    def take_sample(self, optimizers: Sequence[Optimizer]) -> Sampled:
        """What only a sampled step has."""
        return Sampled(
            units=Scaled(*self.units.take()),
            outputs=self.outputs.take(),
            weight_norms=self._shield.call("weights", self.weights.norms),
            update_ratios=self.weights.take_ratios(),
            largest=self.activations.take_largest(),
            moments=self._shield.call("moments", self.moments.measure, optimizers),
        )

    def take_evaluation(self) -> Evaluated:
        """Of the time since the last step, at the end of the run."""
        return self._shield.call("evaluation", self._evaluation.take) or Evaluated()


def _ignore(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Nobody wants to know of a forward."""


def _ignore_loss(call: LossCall) -> None:
    """Nobody wants to know of a loss."""


def _is_traced() -> bool:
    """Whether what runs becomes part of a graph, and is no training."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()
