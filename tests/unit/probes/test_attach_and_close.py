"""Coming and going: torch is put back, processes fork, guards live side by side."""

from __future__ import annotations

import gc
import os
import time
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad
from torch.utils.data import DataLoader, TensorDataset

from lossguard.home import Home
from lossguard.probes.guard import attach
from lossguard.probes.listener import LISTENERS
from tests.support.waiting import becomes
from tests.unit.probes.loops import Records, Tiny, Watch, loop_of, loss_of, same, weights_of

PATCHED = (
    (torch.autograd, "backward"),
    (clip_grad, "_clip_grads_with_norm_"),
    (clip_grad, "clip_grad_value_"),
    (torch.nn.utils, "clip_grads_with_norm_"),
    (torch.nn.utils, "clip_grad_value_"),
    (torch.amp.GradScaler, "scale"),
    (torch.amp.GradScaler, "step"),
)

FORKS = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"  # Python 3.12 says so
)


def functions() -> list[Any]:
    """The places of torch that are wrapped, as they are now."""
    return [getattr(owner, name) for owner, name in PATCHED]


def a_loop() -> tuple[Tiny, torch.optim.Optimizer]:
    """Something to watch."""
    model = Tiny()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    """One update."""
    optimizer.zero_grad()
    loss_of(model, seed).backward()
    optimizer.step()


def test_closing_puts_torch_back_and_may_be_repeated(watch: Watch) -> None:
    """Every wrapped function is the original again, and the guard answers with zeros."""
    before = functions()
    guard = watch(*a_loop())
    assert all(a is not b for a, b in zip(functions(), before, strict=True))
    guard.close()
    guard.close()
    assert all(a is b for a, b in zip(functions(), before, strict=True))
    assert (guard.run, guard.step) == ("", 0)
    guard.log(x=1.0)


def test_fifty_times_leave_neither_threads_nor_hooks_nor_memory(watch: Watch) -> None:
    """On one model and optimizer, as a notebook does."""
    before = functions()
    model, optimizer = a_loop()
    loops, threads = [], []
    for _ in range(50):
        guard = attach(model, optimizer, agent="existing")
        step(model, optimizer)
        loops.append(weakref.ref(loop_of(guard)))
        threads.append(loop_of(guard)._link._thread)
        guard.close()
    assert not any(thread.is_alive() for thread in threads)
    assert all(a is b for a, b in zip(functions(), before, strict=True))
    assert not any(m._forward_hooks for m in model.modules())
    assert not optimizer._optimizer_step_pre_hooks
    gc.collect()
    assert sum(loop() is not None for loop in loops) <= 1


def test_a_run_that_is_dropped_without_a_word_is_let_go(home: Home) -> None:
    """Models of a sweep must not pile up; the thread ends with the loop."""
    model, optimizer = a_loop()
    guard = attach(model, optimizer, agent="existing", policy="guard")
    thread = loop_of(guard)._link._thread
    step(model, optimizer)
    gone = weakref.ref(model)
    del model, optimizer, guard
    gc.collect()
    assert gone() is None
    thread.join(20.0)
    assert not thread.is_alive()


def test_a_guard_nobody_keeps_goes_on_watching(home: Home) -> None:
    """``lossguard.attach(model, optimizer)`` alone on its line is the documented use."""
    model, optimizer = a_loop()
    loop = loop_of(attach(model, optimizer, agent="existing"))
    reference = weakref.ref(loop)
    del loop
    gc.collect()
    step(model, optimizer)
    again = reference()
    assert again is not None
    assert again.step == 1
    again.close("closed")


def test_two_guards_watch_two_models(watch: Watch) -> None:
    """Interleaved: each has its own losses, steps and norms; closing one leaves the other."""
    (one, its), (other, others) = a_loop(), a_loop()
    first, second = watch(one, its), watch(other, others)
    records, more = Records(first), Records(second)
    for seed in range(3):
        step(one, its, seed)
        step(other, others, seed + 10)
    first.close()
    step(other, others, 20)
    assert len(records.steps) == 3
    assert len(more.steps) == 4
    assert not set(records.of("loss")) & set(more.of("loss"))


def test_a_wrapper_of_somebody_else_over_ours_survives_both_ends(watch: Watch) -> None:
    """After our goodbye it still calls torch, and a second watch does not hear things twice."""
    original = torch.autograd.backward
    model, optimizer = a_loop()
    first = watch(model, optimizer)
    ours = torch.autograd.backward
    calls: list[int] = []

    def theirs(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return ours(*args, **kwargs)

    torch.autograd.backward = theirs
    try:
        first.close()
        assert torch.autograd.backward is theirs
        second = watch(model, optimizer)
        records = Records(second)
        expected = []
        for seed in range(2):
            optimizer.zero_grad()
            for _ in range(2):
                loss = loss_of(model, seed) / 2
                loss.backward()
            optimizer.step()
            expected.append(2 * float(loss.detach()))
        assert len(calls) == 4
        assert records.of("loss") == pytest.approx(expected)
        second.close()
    finally:
        torch.autograd.backward = original


def test_a_listener_that_is_gone_is_forgotten() -> None:
    """torch is put back when the last one has been collected."""
    before = functions()
    model, optimizer = a_loop()
    attach(model, optimizer, agent="existing")
    assert LISTENERS
    del model, optimizer
    gc.collect()
    assert not LISTENERS
    # Its link may still be saying goodbye, and wants to hear of an end until it has.
    becomes(
        lambda: [a is b for a, b in zip(functions(), before, strict=True)], [True] * len(before)
    )


@FORKS
def test_a_forked_child_is_not_watched_and_exits_cleanly(watch: Watch) -> None:
    """It may train, log, snapshot and close; the parent's watch goes on."""
    model, optimizer = a_loop()
    guard = watch(model, optimizer, policy="guard")
    step(model, optimizer)
    loop = loop_of(guard)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            step(model, optimizer)
            guard.log(x=1.0)
            began = time.monotonic()
            guard.close()
            status = 0 if loop.step == 1 and time.monotonic() - began < 1.0 else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    step(model, optimizer)
    assert guard.step == 2
    assert loop._link._thread.is_alive()


@FORKS
def test_a_forked_child_may_attach_anew(watch: Watch) -> None:
    """A launcher that forks its trainers."""
    watch(*a_loop())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            model, optimizer = a_loop()
            mine = attach(model, optimizer, agent="existing")
            step(model, optimizer)
            status = 0 if mine.step == 1 and loop_of(mine)._link._thread.is_alive() else 2
            mine.close()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@FORKS
def test_data_loader_workers_work_while_watched(watch: Watch) -> None:
    """Two forked workers, two epochs: all the batches, and no worker ends badly."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    guard = watch(model, optimizer, policy="guard")
    data = TensorDataset(torch.arange(24.0).reshape(8, 3))
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
        data, batch_size=2, num_workers=2, multiprocessing_context="fork"
    )
    for _ in range(2):
        for (x,) in loader:
            optimizer.zero_grad()
            (model(x) / 100).square().mean().backward()
            optimizer.step()
    assert guard.step == 8


def test_with_closes_and_an_exception_passes(watch: Watch) -> None:
    """The farewell says which of the two it was."""
    for error, reason in ((None, "finished"), (ValueError("no"), "exception")):
        guard = watch(*a_loop())
        loop = loop_of(guard)
        if error is None:
            with guard:
                pass
        else:
            with pytest.raises(ValueError, match="no"), guard:
                raise error
        assert loop._outbox.farewell is not None
        assert loop._outbox.farewell.reason == reason


def test_closing_frees_the_snapshots(watch: Watch) -> None:
    """A ring may be gigabytes: it goes with the watch, not with the next garbage collection."""
    model, optimizer = a_loop()
    guard = watch(model, optimizer, policy="guard")
    assert guard.snapshot()
    ring = loop_of(guard)._acting._ring
    assert ring.steps == [0]
    guard.close()
    assert ring.steps == []


def test_the_model_is_as_it_would_be_after_a_watch_that_came_and_went(watch: Watch) -> None:
    """Three steps watched, three not: bitwise the six of a plain run."""
    torch.manual_seed(0)
    plain, its = a_loop()
    torch.manual_seed(0)
    model, optimizer = a_loop()
    guard = watch(model, optimizer, policy="guard")
    for seed in range(6):
        if seed == 3:
            guard.close()
        step(plain, its, seed)
        step(model, optimizer, seed)
    assert same(weights_of(plain), weights_of(model))


def test_an_optimizer_that_calls_the_step_of_its_base_steps_once(
    watch: Watch, no_link: None
) -> None:
    """torch runs the hooks of both ``step`` methods; also after one that died in between."""

    class Inner(torch.optim.SGD):
        dying = False

        def step(self, closure: Any = None) -> Any:
            if self.dying:
                raise RuntimeError("inside")
            return super().step(closure)

    class Outer(Inner):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    model = nn.Linear(2, 1)
    for kind in (torch.optim.SGD, Inner):  # torch adds its hooks to a class with its first object
        kind(model.parameters(), lr=0.1)
    optimizer = Outer(model.parameters(), lr=0.1)
    guard = watch(model, optimizer)
    records = Records(guard)
    for step in range(4):
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        optimizer.dying = step == 1
        if optimizer.dying:
            with pytest.raises(RuntimeError, match="inside"):
                optimizer.step()
        else:
            optimizer.step()
    assert guard.step == 4
    assert [s is not None for s in records.of("loss")] == [True] * 4
