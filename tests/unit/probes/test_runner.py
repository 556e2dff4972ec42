"""``lossguard run``: the script as it is, watched from its first step."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import _global_optimizer_pre_hooks

from lossguard.home import Home
from lossguard.policy_choice import choose_policy
from lossguard.probes.living import LOOPS
from lossguard.probes.loop import Loop
from lossguard.probes.self_attaching import watch_what_trains
from tests.unit.probes.loops import Tiny, loss_of

# --- in this process: what the first step has ------------------------------------------------


@pytest.fixture
def watching(no_link: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Loop]]:
    """Watches whatever optimizer steps first; gives the loop that came of it."""
    hooks = dict(_global_optimizer_pre_hooks)
    sent: list[Any] = []
    monkeypatch.setattr("lossguard.probes.outbox.Outbox.put", lambda self, item: sent.append(item))
    before = list(LOOPS)
    found: list[Loop] = []

    def the_loop() -> Loop:
        found[:] = [o for o in LOOPS if isinstance(o, Loop) and o not in before]
        (loop,) = found
        loop.sent = sent  # type: ignore[attr-defined]
        return loop

    watching = watch_what_trains(lambda: choose_policy("observe"), "named")
    yield the_loop
    watching.disarm()
    for loop in LOOPS:
        if loop not in before:
            loop.close("closed")
    _global_optimizer_pre_hooks.clear()
    _global_optimizer_pre_hooks.update(hooks)


def first_step(loop: Loop) -> dict[str, float]:
    """What was measured at the first step, by name; what is missing is not there."""
    item = loop.sent[0]  # type: ignore[attr-defined]
    values, _ = item.read()
    bits = values.view("uint32")
    named = zip(item.layout.names, values, bits, strict=True)
    return {name: float(value) for name, value, b in named if b != 0x7FC0A11E}


def test_the_first_step_has_its_loss_and_its_norms(watching: Callable[[], Loop]) -> None:
    """Although the watch begins when the optimizer is already being called."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = loss_of(model, 1)
    loss.backward()
    norm = float(
        nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    )
    optimizer.step()
    loop = watching()
    first = first_step(loop)
    assert first["loss"] == float(loss.detach())
    assert first["grad_norm"] == pytest.approx(norm, rel=1e-6)
    assert loop.run.startswith("named-")
    assert loop.step == 1
    assert "grad_norm/head.weight" in first, "the model was found, and with it the names"


def test_after_clipping_the_first_norm_is_that_from_before(watching: Callable[[], Loop]) -> None:
    """It was taken when nobody knew yet whose gradients they were."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of(model, 1).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = float(nn.utils.get_total_norm(gradients))
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.step()
    first = first_step(watching())
    assert first["grad_norm"] == pytest.approx(norm, rel=1e-6)
    assert "grad_norm/head.weight" in first


def test_accumulated_and_divided_losses_of_the_first_step_are_one_mean(
    watching: Callable[[], Loop],
) -> None:
    """All micro-batches since the start count, not the last one alone."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for seed in range(4):
        loss = loss_of(model, seed)
        (loss / 4).backward()
        losses.append(float(loss.detach()))
    optimizer.step()
    optimizer.zero_grad()
    for seed in range(4):
        (loss_of(model, seed) / 4).backward()
    optimizer.step()
    loop = watching()
    assert first_step(loop)["loss"] == pytest.approx(sum(losses) / 4)
    assert "loss" not in {e.data.get("part") for e in loop._outbox.words if hasattr(e, "data")}
    loop.sent.pop(0)  # type: ignore[attr-defined]
    assert first_step(loop)["loss"] > 1.0


@pytest.mark.parametrize("fused", [False, True])
def test_scaler_and_schedule_are_found(watching: Callable[[], Loop], fused: bool) -> None:
    """A rollback has to bring them back too; the loss is un-scaled, the scale is there."""
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    loss = loss_of(model, 1)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    schedule.step()
    loop = watching()
    assert loop._state.scaler is scaler
    assert list(loop._state.schedulers) == [schedule]
    first = first_step(loop)
    assert first["loss"] == float(loss.detach())
    assert first["loss_scale"] == 512.0


# --- in processes of their own ---------------------------------------------------------------


class Scripts:
    """Runs scripts plainly and under ``lossguard run``; no agent is started."""

    def __init__(self, folder: Path, home: Home) -> None:
        self.folder = folder
        self.environment = {**os.environ, "LOSSGUARD_HOME": str(home.state.parent)}

    def write(self, name: str, text: str) -> None:
        """A script or a module."""
        (self.folder / name).write_text(textwrap.dedent(text))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """In the folder of the scripts."""
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def both(self, *command: str) -> tuple[Any, Any]:
        """(plain, watched): exit code, stdout, stderr."""
        results = (self.run(*command), self.run("-m", "lossguard", "run", *command))
        plain, watched = ((r.returncode, r.stdout, r.stderr) for r in results)
        return plain, watched


@pytest.fixture
def scripts(tmp_path: Path, home: Home) -> Iterator[Scripts]:
    """The agent's lock is held, so that every run takes it for running."""
    descriptor = os.open(home.lock_path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield Scripts(tmp_path, home)
    os.close(descriptor)


def test_a_script_finds_itself_as_it_would_alone(scripts: Scripts) -> None:
    """Arguments, name, file, folder, main module; and nothing heavy is imported before it."""
    scripts.write("beside.py", "word = 'found'")
    scripts.write(
        "script.py",
        '''
        """Its docstring."""
        import json, sys
        heavy = sorted({"torch", "numpy", "zmq"} & set(sys.modules))
        import beside, pickle, __main__
        class Thing: pass
        assert type(pickle.loads(pickle.dumps(Thing()))) is Thing
        print(json.dumps([sys.argv, __name__, __file__, __doc__, sys.path[0], beside.word,
                          heavy, __main__.__file__, __spec__ is None, "Thing" in dir(__main__)]))
        ''',
    )
    plain, watched = scripts.both("script.py", "--name", "x", "-v", "--", "y")
    assert plain[0] == 0, plain
    assert watched == plain


@pytest.mark.parametrize(
    "body",
    [
        "import sys; sys.exit(7)",
        "raise SystemExit('a last word')",
        "def f():\n    raise ValueError('mine')\nf()",
        "print('fine')",
        "1 +",
    ],
    ids=["code", "text", "exception", "fine", "syntax"],
)
def test_exit_code_output_and_traceback_are_the_scripts(scripts: Scripts, body: str) -> None:
    """To the letter."""
    scripts.write("script.py", body)
    plain, watched = scripts.both("script.py")
    assert watched == plain


def test_a_module_runs_as_with_python_m(scripts: Scripts) -> None:
    """Its name, its arguments, its package."""
    (scripts.folder / "package").mkdir()
    scripts.write("package/__init__.py", "")
    scripts.write(
        "package/train.py",
        "import sys; print(sys.argv[1:], __name__, __package__, __spec__.name)",
    )
    plain, watched = scripts.both("-m", "package.train", "a", "--name")
    assert plain[0] == 0, plain
    assert watched == plain


def test_a_script_that_wants_torch_and_has_none_gets_its_own_error(scripts: Scripts) -> None:
    """The import fails as it does alone."""
    scripts.write(
        "script.py",
        """
        import sys
        class Without:
            def find_spec(self, name, path, target=None):
                if name == "torch":
                    raise ModuleNotFoundError("No module named 'torch'")
        sys.meta_path.insert(0, Without())
        try:
            import torch
        except ImportError as error:
            print("without", error)
        """,
    )
    plain, watched = scripts.both("script.py")
    assert plain[1] == "without No module named 'torch'\n"
    assert watched == plain


def test_the_environment_a_script_sets_before_torch_counts(scripts: Scripts) -> None:
    """And the run is watched: first loss, named parameters, schedule; goodbye at the exit."""
    scripts.write(
        "script.py",
        """
        import os, sys, json
        assert "torch" not in sys.modules
        os.environ["OMP_NUM_THREADS"] = "1"
        import torch
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        optimizer = torch.optim.AdamW(model.parameters())
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
        losses = []
        for step in range(3):
            optimizer.zero_grad()
            loss = model(torch.ones(1, 2)).square().sum()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        from lossguard.probes import living
        found = list(living.LOOPS)
        seen = []
        for one in found:
            one._link.close()
            for parcel in one._outbox.parcels:
                import numpy
                values = numpy.frombuffer(parcel.payload, "<f4").tolist()
                seen.append(values[parcel.layout.names.index("loss")])
        print(json.dumps([threads, len(found), losses == seen,
                          [len(one._state.schedulers) for one in found]]))
        """,
    )
    result = scripts.run("-m", "lossguard", "run", "script.py")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [1, 1, True, [1]]
    assert result.stderr == ""
