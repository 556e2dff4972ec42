"""``lossguard attach PID``: a training that nobody has prepared, watched from the middle on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from lossguard.agent.ptrace import SUPPORTED
from tests.e2e.attaching.scripts import Ended, Scripts, end
from tests.support.waiting import eventually
from tests.support.warm_python import Program

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not SUPPORTED and sys.version_info < (3, 14), reason="needs x86-64, or Python 3.14"
    ),
]

GOES_ON = """
import gc, hashlib, os, sys, threading, time, torch
from torch.nn.utils import clip_grad
from torch.optim import optimizer as optimizers

torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Sequential(
    torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(32, 1)
)
optimizer = torch.optim.AdamW(model.parameters())
data = torch.randn(64, 8)
losses = []

def step():
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(model(data), data.sum(1, keepdim=True))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.item().hex())

def as_it_is():
    F = torch.nn.functional
    return {
        "functions": [id(f) for f in (
            torch.autograd.backward, clip_grad._clip_grads_with_norm_, torch.save, os._exit,
            torch.amp.GradScaler.scale, torch.utils.data.dataloader._BaseDataLoaderIter.__next__,
            sys.excepthook, F.mse_loss, F.mse_loss.__code__)],
        "hooks": [len(h) for h in (
            optimizers._global_optimizer_pre_hooks, optimizers._global_optimizer_post_hooks,
            optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks,
            *(m._forward_hooks for m in model.modules()),
            *(m._forward_pre_hooks for m in model.modules()),
            *(p._backward_hooks or () for p in model.parameters()))],
        "finders": len(sys.meta_path),
        "threads": threading.active_count(),
        "sockets": sum("socket:" in os.readlink(f"/proc/self/fd/{f}")
                       for f in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{f}")
                       or os.path.islink(f"/proc/self/fd/{f}")),
        "names": sorted(globals()),
        "interpreter": [sys.getswitchinterval(), gc.isenabled(), sorted(os.environ)],
    }

steps = int(sys.argv[1])
before = after = None
before = as_it_is()
print("up", flush=True)
while len(losses) < steps or (steps == 0 and not os.path.exists(sys.argv[2])):
    step()
    if steps == 0:
        time.sleep(0.005)  # it waits for us, not we for it
after = as_it_is()
digest = hashlib.sha256(repr(losses).encode()).hexdigest()
print(len(losses), digest, after == before or (before, after))
"""


def test_it_is_watched_and_let_go_and_has_noticed_nothing(scripts: Scripts) -> None:
    """Twice, each time a run; every loss is the one of a twin that was left alone, to the last
    bit; and in the end every hook, patch, thread and socket is gone."""
    scripts.write("train.py", GOES_ON)
    stop = scripts.folder / "stop"
    process = scripts.begin_warm("train.py", "0", str(stop))
    pid = str(process.pid)
    assert process.stdout.readline() == "up\n"
    names: list[str] = []
    for cycle in range(2):
        attached = scripts.lossguard("attach", pid, "--json", "--name", f"cycle-{cycle}")
        answer = json.loads(attached.stdout)
        assert (attached.code, answer["state"]) == (0, "attached")
        names.append(answer["run"])
        eventually(
            lambda: any(run.run == names[-1] and run.step > 20 for run in scripts.runs()), 60.0
        )
        if cycle == 0:
            twice = scripts.lossguard("attach", pid)
            assert (twice.code, names[0] in "".join(twice.said)) == (73, True)
        assert scripts.lossguard("detach", pid).stdout == (
            f"process {pid} is as it was, and trains on\n"
        )
    again = scripts.lossguard("detach", pid)
    assert (again.code, again.said) == (69, [f"lossguard: process {pid} is not watched"])
    stop.touch()
    ended = end(process)
    count, _, unchanged = ended.stdout.split(maxsplit=2)
    assert (ended.code, ended.stderr, unchanged) == (0, [], "True\n")
    twin = scripts.run_warm("train.py", count)
    assert twin.stdout == "up\n" + ended.stdout
    known = {run.run: run for run in scripts.runs()}
    assert sorted(known) == sorted(names)
    for name in names:
        assert known[name].state == "finished"
        assert {"loss", "grad_norm", "max_norm"} <= set(known[name].last)
        assert known[name].last["grad_norm"] > 0.0


# --- what it refuses ---------------------------------------------------------------------------


def refused(scripts: Scripts, *command: str, python: str | None = None) -> Ended:
    """``attach`` to a process that is up."""
    return refused_by(scripts, scripts.begin(*command, python=python))


def refused_by(scripts: Scripts, process: subprocess.Popen[str] | Program) -> Ended:
    """The same; and it goes on."""
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    ended = scripts.lossguard("attach", str(process.pid))
    assert process.poll() is None, "it goes on"
    return ended


GOES = "\nprint('up', flush=True)\nimport time\nwhile True: time.sleep(0.01)"


def test_no_such_process(scripts: Scripts) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    ended = scripts.lossguard("attach", str(gone.pid))
    assert (ended.code, ended.said) == (69, [f"lossguard: there is no process {gone.pid}"])
    assert not ended.stderr


@pytest.mark.parametrize(
    ("code", "why", "exit_code"),
    [
        ("", "has not loaded torch", 69),
        ("import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)", "in the hands of a debugger", 77),
    ],
)
def test_python_that_trains_nothing_or_is_debugged(
    code: str, why: str, exit_code: int, scripts: Scripts
) -> None:
    ended = refused(scripts, "-c", code + GOES)
    assert ended.code == exit_code
    assert why in "".join(ended.said)


def test_what_is_not_python(scripts: Scripts) -> None:
    ended = refused(scripts, "-c", "echo up; read x", python="/bin/sh")
    assert ended.code == 69
    assert "is not a Python program" in "".join(ended.said)


def test_a_process_that_is_stopped(scripts: Scripts) -> None:
    """It would not run what it is asked to, until somebody lets it go on."""
    ended = refused(scripts, "-c", "import os\nprint('up', flush=True)\nos.kill(os.getpid(), 19)")
    assert (ended.code, signal.SIGSTOP) == (69, 19)
    assert "is stopped" in "".join(ended.said)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_process_of_somebody_else(scripts: Scripts) -> None:
    """Root could; but the run would belong to root's agent, and be none of its owner's."""
    other = "import os; os.setuid(65534)"
    ended = refused(scripts, "-c", other + GOES, python=sys.executable)
    assert ended.code == 77
    assert "belongs to uid 65534" in "".join(ended.said)


def test_torch_without_an_optimizer_and_without_lossguard(
    scripts: Scripts, python_without: str
) -> None:
    """Both are only known from inside; and both processes go on."""
    scripts.write("script.py", "import torch" + GOES)
    no_optimizer = refused_by(scripts, scripts.begin_warm("script.py"))
    assert no_optimizer.code == 69
    assert "has no optimizer" in "".join(no_optimizer.said)
    bare = refused(scripts, "-c", "import torch" + GOES, python=python_without)
    assert bare.code == 69
    assert f"install it there: {python_without} -m pip install lossguard" in "".join(bare.said)
