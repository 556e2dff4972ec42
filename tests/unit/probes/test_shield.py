"""Whatever part of the probe breaks, training goes on as if it were not there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lossguard.errors import ConfigError
from lossguard.probes import (
    acting,
    evaluation,
    gradients,
    inputs,
    learning_rate,
    losses,
    measurement,
    modes,
    outputs,
    patches,
    transfer,
    units,
    weights,
    wire,
)
from lossguard.probes.activations import ActivationNorms
from lossguard.probes.guard import Guard, attach
from lossguard.probes.loop import Loop
from lossguard.probes.reflex import Reflex
from lossguard.probes.shield import Shield
from lossguard.probes.snapshots import SnapshotRing
from tests.unit.probes.loops import Tiny, Watch, loop_of, loss_of, same, weights_of

pytestmark = pytest.mark.usefixtures("no_link")

# What breaks, and the part that says so.
BREAKABLE: dict[str, tuple[Any, str, str]] = {
    "loss before": (losses.LossTap, "before_backward", "loss"),
    "loss after": (losses.LossTap, "after_backward", "loss"),
    "loss": (losses.LossTap, "take", "step"),
    "gradients": (gradients.GradientNorms, "measure", "gradients"),
    "verdict": (Reflex, "verdict", "reflex"),
    "bounds": (Reflex, "set_bounds", "reflex"),
    "gate": (Reflex, "close_gate", "reflex"),
    "opening": (Reflex, "open_gate", "acting"),
    "activations": (ActivationNorms, "take", "step"),
    "snapshots": (SnapshotRing, "take", "snapshots"),
    "due": (SnapshotRing, "is_due", "snapshots"),
    "orders": (acting.Acting, "obey", "orders"),
    "learning rate": (learning_rate.LearningRateHold, "apply", "learning rate"),
    "release": (learning_rate.LearningRateHold, "release", "acting"),
    "assembly": (measurement.Measurement, "assemble", "step"),
    "packing": (measurement.Measurement, "pack", "step"),
    "transfer": (transfer.HostTransfer, "send", "step"),
    "input": (inputs.InputStatistics, "look", "inputs"),
    "output": (outputs.OutputStatistics, "look", "outputs"),
    "units": (units, "sample", "units"),
    "units taken": (units.UnitShares, "take", "step"),
    "weight norms": (weights.Weights, "norms", "weights"),
    "before update": (weights.Weights, "before_update", "weights"),
    "after update": (weights.Weights, "after_update", "weights"),
    "modes": (modes.Modes, "share_in_training", "evaluation"),
    "evaluation forward": (evaluation.Evaluation, "forward_begins", "evaluation"),
    "evaluation loss": (evaluation.Evaluation, "on_loss", "evaluation"),
    "evaluation": (evaluation.Evaluation, "take", "evaluation"),
    "imports": (patches, "notice_imports", "surroundings"),
}

# What is called by two parts; all else by one.
BREAKS_TWO = {"release": ["learning rate", "acting"], "modes": ["modes", "evaluation"]}


class Broken(Exception):
    """A failure of ours, with a name that makes a poor message."""

    def __str__(self) -> str:
        raise RuntimeError("not even its message works")


def train(watch: Watch | None, policy: str, order: bool = False) -> tuple[list[Any], Guard | None]:
    """18 steps; losses, weights, gradients and attributes of the optimizer."""
    torch.manual_seed(0)
    model = Tiny(dropout=0.1)
    model.blocks.append(nn.Sequential(nn.Linear(16, 16), nn.ReLU()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    guard = watch(model, optimizer, policy=policy) if watch else None
    if guard is not None:
        link = loop_of(guard)._link
        link.limits = wire.Limits(run="r", version=1, grad_norm=1e6, loss=1e6)
    seen: list[Any] = []
    for step in range(18):
        if guard is not None and order and step == 3:
            loop_of(guard)._link.orders.append(
                wire.Command(run="r", command="c", action="ack", expires_step=99)
            )
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen.append((loss.detach(), [p.grad for p in model.parameters()]))
        if step == 8:
            with torch.no_grad():
                seen.append(loss_of(model, 99))
    return [seen, weights_of(model), optimizer.state_dict(), hasattr(optimizer, "found_inf")], guard


@pytest.mark.parametrize("policy", ["observe", "guard"])
@pytest.mark.parametrize("error", [ValueError("broken"), Broken()], ids=["ValueError", "Broken"])
@pytest.mark.parametrize("what", BREAKABLE)
def test_a_broken_part_is_switched_off_and_training_does_not_notice(
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: str,
    error: Exception,
    policy: str,
) -> None:
    """One log line, one event, and bitwise the run that would have been."""
    plain, _ = train(None, policy)
    owner, name, part = BREAKABLE[what]
    calls = 0

    def broken(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        raise error

    monkeypatch.setattr(owner, name, broken)
    watched, guard = train(watch, policy, order=True)
    assert same(plain, watched)
    assert guard is not None
    words = [w for w in loop_of(guard)._outbox.words if isinstance(w, wire.Event)]
    events = [w for w in words if w.kind != "input"]
    lines = [r for r in caplog.records if r.name == "lossguard"]
    if not calls:  # nothing of it is used by a loop that only observes
        assert policy == "observe"
        assert (events, lines) == ([], [])
    elif isinstance(error, ValueError):
        off = BREAKS_TWO.get(what, [part])
        assert [event.data["part"] for event in events] == off
        assert [r.levelno for r in lines] == [logging.ERROR] * len(off)
        for name, line in zip(off, lines, strict=True):
            said = f"the {name} probe failed (ValueError: broken) and is off; training goes on"
            assert line.getMessage() == said


def test_a_failure_after_the_gate_was_closed_opens_it(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the optimizer would carry our verdict for the rest of the run."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    guard = watch(model, optimizer, policy="guard")
    close_gate = Reflex.close_gate

    def closes_and_fails(self: Reflex, code: Any, by_command: bool) -> Any:
        close_gate(self, torch.ones(()), by_command)
        raise ValueError("after closing")

    monkeypatch.setattr(Reflex, "close_gate", closes_and_fails)
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)
    assert not hasattr(optimizer, "found_inf")
    assert guard.step == 1


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("where", ["pack", "assemble"])
def test_ctrl_c_inside_a_hook_reaches_the_script_with_everything_in_place(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, where: str, fused: bool
) -> None:
    """The gate is open, the gradients are back, the learning rate is the script's."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, fused=fused)
    guard = watch(model, optimizer, policy="guard")
    loop = loop_of(guard)
    loop._acting._hold.hold([0.1], 99)

    def ctrl_c(*args: Any, **kwargs: Any) -> Any:
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert (model.weight.grad is None) is not fused
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(measurement.Measurement, where, ctrl_c)
        (model(torch.ones(1, 2)).sum() * torch.nan).backward()
        gradient = model.weight.grad
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
    assert model.weight.grad is gradient
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert not hasattr(optimizer, "found_inf")
    optimizer.zero_grad()
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_died_leaves_no_veto_behind(watch: Watch, fused: bool) -> None:
    """The script catches what its optimizer raised, and its next good update counts."""

    class Dies(torch.optim.AdamW):
        dying = False

        def step(self, closure: Any = None) -> Any:
            if self.dying:
                raise RuntimeError("out of memory")
            return super().step(closure)

    model = nn.Linear(2, 1)
    optimizer = Dies(model.parameters(), lr=0.5, fused=fused)
    guard = watch(model, optimizer, policy="guard")
    loop_of(guard)._acting._hold.hold([0.1], 99)
    optimizer.dying = True
    (model(torch.ones(1, 2)).sum() * torch.nan).backward()
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step()
    optimizer.dying = False
    optimizer.zero_grad()
    optimizer.param_groups[0]["lr"] = 0.05
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    gradient = model.weight.grad
    optimizer.step()
    assert model.weight.grad is gradient
    assert not torch.equal(model.weight, before)
    assert model.weight.isfinite().all()
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert not hasattr(optimizer, "found_inf")


def test_a_part_that_is_off_is_not_called_again() -> None:
    """The first failure is the last."""
    reports: list[str] = []
    shield = Shield(lambda part, what, trace: reports.append(f"{part}: {what}"))

    def fails() -> None:
        raise ValueError("no")

    called: list[int] = []
    shield.call("a", fails)
    shield.call("a", called.append, 1)
    shield.call("b", called.append, 2)
    shield.always("a", called.append, 3)
    shield.always("a", fails)
    assert called == [2, 3]
    assert reports == ["a: ValueError: no"]
    assert not shield.is_on("a")
    assert shield.is_on("b")


def test_a_reporter_that_fails_is_no_trouble() -> None:
    """Not even the outbox can bring the loop down."""

    def report(part: str, what: str, trace: str) -> None:
        raise RuntimeError("full")

    shield = Shield(report)
    assert shield.call("a", int, "x") is None


# --- attach ---------------------------------------------------------------------------------


def _adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters())


NONSENSE: dict[str, tuple[Callable[[nn.Module], dict[str, Any]], type[Exception], str]] = {
    "model": (lambda m: {"model": "gpt", "optimizer": _adam(m)}, TypeError, "model must be"),
    "optimizer": (lambda m: {"model": m, "optimizer": m}, TypeError, "optimizer must be"),
    "swapped": (lambda m: {"model": _adam(m), "optimizer": m}, TypeError, "model must be"),
    "scheduler": (
        lambda m: {"model": m, "optimizer": _adam(m), "scheduler": 3},
        TypeError,
        "scheduler must have",
    ),
    "scaler": (
        lambda m: {"model": m, "optimizer": _adam(m), "scaler": 65536.0},
        TypeError,
        "scaler must have",
    ),
    "extra": (lambda m: {"model": m, "optimizer": _adam(m), "extra": m}, TypeError, "extra must"),
    "in extra": (
        lambda m: {"model": m, "optimizer": _adam(m), "extra": {"ema": 0.99}},
        TypeError,
        r"extra\['ema'\] must have",
    ),
    "policy": (
        lambda m: {"model": m, "optimizer": _adam(m), "policy": "gaurd"},
        ConfigError,
        "policy must be one of observe, guard",
    ),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_arguments_that_make_no_sense_are_refused_by_name(what: str) -> None:
    """At once, with the type that came, and without a hook left behind."""
    make, error, message = NONSENSE[what]
    model = nn.Linear(2, 1)
    arguments = make(model)
    with pytest.raises(error, match=message):
        attach(**arguments, agent="existing")
    assert not model._forward_hooks


def test_a_home_that_cannot_be_written_leaves_the_run_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    """One line, and a guard on which everything can be called."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOSSGUARD_HOME", str(tmp_path / "file" / "home"))
    model = nn.Linear(2, 1)
    optimizer = _adam(model)
    guard = attach(model, optimizer)
    assert len([r for r in caplog.records if r.name == "lossguard"]) == 1
    assert "training goes on, unwatched" in caplog.text
    guard.log(loss=1.0)
    assert guard.snapshot() is False
    assert (guard.run, guard.step, guard.own_time_s) == ("", 0, 0.0)
    with guard:
        pass
    guard.close()
    assert not optimizer._optimizer_step_pre_hooks


def test_a_runtime_directory_of_somebody_else_does_not_stop_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    """It is Lossguard's trouble, not an argument's."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("LOSSGUARD_HOME", str(tmp_path))
    model = nn.Linear(2, 1)
    assert attach(model, _adam(model), agent="existing").run == ""
    assert "is a link" in caplog.text


def test_a_loop_that_cannot_be_built_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hooks on modules, and torch as it was."""
    backward = torch.autograd.backward
    for broken in (
        "senses.ActivationNorms",
        "senses.UnitShares",
        "recorder.Measurement",
        "watch.Acting",
        "watch.Machine",
        "watch.Link",
        "senses.patches.listen",
    ):
        with monkeypatch.context() as patch:

            def fails(*args: Any, **kwargs: Any) -> Any:
                raise OSError("no")

            patch.setattr(f"lossguard.probes.{broken}", fails)
            model = Tiny()
            optimizer = _adam(model)
            assert attach(model, optimizer, agent="existing").run == ""
        assert not any(m._forward_hooks for m in model.modules())
        assert not optimizer._optimizer_step_pre_hooks
        assert torch.autograd.backward is backward


def test_logging_nonsense_is_a_warning(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    """Device tensors, texts, vectors, and objects that raise: refused, and never an exception."""

    class Raises:
        def __float__(self) -> float:
            raise OSError("no")

    model = nn.Linear(2, 1)
    guard = watch(model, _adam(model))
    bad: dict[str, Any] = {
        "a": "text",
        "b": torch.ones(2),
        "c": torch.ones((), device="meta"),
        "d": Raises(),
        "e": None,
        "f": torch.tensor(1j),
    }
    for name, value in bad.items():
        guard.log(**{name: value})
    assert loop_of(guard)._recorder.logged == {}
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == len(bad)
    guard.log(good=torch.tensor(2.0), big=10**400)
    assert loop_of(guard)._recorder.logged == {"good": 2.0, "big": float("inf")}


def test_logged_names_are_bounded(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    """A script that makes a new name at every step does not grow the layout for ever."""
    model = nn.Linear(2, 1)
    guard = watch(model, _adam(model))
    for i in range(1001):
        guard.log(**{f"n{i}": 1.0})
    assert len(loop_of(guard)._recorder.logged) == 1000
    assert "over 1000 names" in caplog.text
    assert isinstance(loop_of(guard), Loop)
