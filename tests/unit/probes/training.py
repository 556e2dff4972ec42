"""Whole trainings, run twice: plain, and found and watched as under ``lossguard run``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

from lossguard.policy_choice import choose_policy
from lossguard.probes import wire
from lossguard.probes.living import LOOPS
from lossguard.probes.outbox import Measured, Outbox
from lossguard.probes.self_attaching import watch_what_trains
from tests.unit.probes.loops import NoLink

Values = dict[str, float]


class Truth:
    """What a script itself knows of its steps, run by run: "" is the first one."""

    def __init__(self) -> None:
        self.runs: dict[str, list[Values]] = {}
        self.losses: list[float] = []

    def step(
        self,
        loss: Tensor | float | None,
        named: Iterable[tuple[str, Tensor]],
        *,
        run: str = "",
        scale: float = 1.0,
        **more: float,
    ) -> None:
        """To be called when the gradients are there. ``scale`` is what they still carry."""
        values: Values = dict(more)
        norms: list[float] = []
        for name, parameter in named:
            if (grad := parameter.grad) is not None:
                grad = grad.to_dense() if grad.layout is not torch.strided else grad
                wide = grad.to(torch.complex128 if grad.is_complex() else torch.float64)
                norms.append(float(torch.linalg.vector_norm(wide)) / scale)
                values[f"grad_norm/{name}"] = norms[-1]
        if norms:
            values["grad_norm"] = sum(norm * norm for norm in norms) ** 0.5
        if loss is not None:
            values["loss"] = float(loss.detach() if isinstance(loss, Tensor) else loss)
            self.losses.append(values["loss"])
        self.runs.setdefault(run, []).append(values)


Script = Callable[[Truth], Iterable[Tensor]]
"""Trains, tells the truth, and returns what it has trained."""


class Watched:
    """What was sent of a training: the steps of each run, and what was said."""

    def __init__(self) -> None:
        self.runs: dict[str, list[Values]] = {}
        self.words: list[wire.Message] = []

    @property
    def events(self) -> list[str]:
        """Kinds of the events that a person is to read."""
        events = [word for word in self.words if isinstance(word, wire.Event)]
        return [event.kind for event in events if event.message and event.kind != "input"]

    def put(self, outbox: Outbox, item: Any) -> None:
        """In the place of ``Outbox.put``."""
        if isinstance(item, Measured):
            values, _ = item.read()
            pairs = zip(item.layout.names, values, values.view("uint32"), strict=True)
            known = {n: float(v) for n, v, b in pairs if b != wire.MISSING_BITS}
            part = re.sub(r"^[^.]*\.?", "", item.layout.run)
            self.runs.setdefault(part, []).append(known)


@contextmanager
def watching(policy: str = "observe") -> Iterator[Watched]:
    """As ``lossguard run`` does, without an agent."""
    watched = Watched()
    patch = pytest.MonkeyPatch()
    patch.setattr("lossguard.probes.watch.Link", NoLink)
    patch.setattr(Outbox, "put", lambda outbox, item: watched.put(outbox, item))
    patch.setattr(Outbox, "say", lambda outbox, word: watched.words.append(word))
    hooks = dict(_global_optimizer_pre_hooks)
    before = set(LOOPS)
    armed = watch_what_trains(lambda: choose_policy(policy), "run")
    try:
        yield watched
    finally:
        armed.disarm()
        for loop in set(LOOPS) - before:
            loop.close("finished")
        assert dict(_global_optimizer_pre_hooks) == hooks
        patch.undo()


def run(script: Script, policy: str | None) -> tuple[Truth, list[Tensor], Watched]:
    """One training from a fixed seed: plain where there is no policy."""
    torch.manual_seed(0)
    truth = Truth()
    if policy is None:
        return truth, [t.detach().clone() for t in script(truth)], Watched()
    with watching(policy) as watched:
        weights = [t.detach().clone() for t in script(truth)]
    return truth, weights, watched


def require_unchanged(script: Script, policy: str = "observe") -> tuple[Truth, Watched]:
    """Losses and weights are, bitwise, those of the plain twin."""
    plain, weights, _ = run(script, None)
    truth, same, watched = run(script, policy)
    assert truth.losses == plain.losses
    assert len(weights) == len(same)
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
    return truth, watched


def require_true(truth: Truth, watched: Watched) -> None:
    """Every run and every step was seen, with the values that the script knows, and no others of
    their kind."""
    assert set(watched.runs) == set(truth.runs)
    for name, steps in truth.runs.items():
        seen = watched.runs[name]
        assert len(seen) == len(steps), name
        for number, (expected, values) in enumerate(zip(steps, seen, strict=True), 1):
            told = {n: values[n] for n in values if _is_checked(n, expected)}
            wrong = [n for n in told | expected if not _same(told.get(n), expected.get(n))]
            differ = {n: (told.get(n), expected.get(n)) for n in wrong}
            assert not differ, f"run {name!r}, step {number}: (measured, true) in {differ}"


def _is_checked(name: str, expected: Values) -> bool:
    return name in expected or name in ("loss", "grad_norm") or name.startswith("grad_norm/")


def _same(measured: float | None, true: float | None) -> bool:
    if measured is None or true is None:
        return measured is true
    return measured == pytest.approx(true, rel=1e-5, abs=1e-12, nan_ok=True)


def named(**modules: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters with their names; ``model`` has none."""
    return [
        (name if prefix == "model" else f"{prefix}.{name}", parameter)
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
    ]
