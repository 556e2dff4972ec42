"""A watched model can be copied, saved, scripted and traced as if nobody watched."""

from __future__ import annotations

import contextlib
import copy
import io
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lossguard.probes.hooks import Hooks, drop_copies
from tests.unit.probes.loops import Records, Watch, loop_of

pytestmark = pytest.mark.usefixtures("no_link")


def a_model() -> nn.Module:
    """What has hooks of every kind once it is watched."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Sequential(nn.Linear(4, 1), nn.Tanh())
    )


IN_A_MODEL: list[Any] = [
    nn.Sequential,
    nn.Linear,
    nn.ReLU,
    nn.Tanh,
    getattr,
    contextlib.nullcontext,
]
"""What its file names, with what a hook leaves there."""


def hooks_of(model: nn.Module) -> int:
    """How many there are."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture
def model(watch: Watch) -> nn.Module:
    """A watched one."""
    model = a_model()
    watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert hooks_of(model) == 5
    return model


def saved(model: Any) -> bytes:
    """A whole model in a file."""
    buffer = io.BytesIO()
    torch.save(model, buffer)
    return buffer.getvalue()


def test_a_saved_model_is_to_the_byte_the_same(model: nn.Module) -> None:
    """And the hooks are back in their places."""
    before = [dict(m._forward_hooks) for m in model.modules()]
    assert saved(model) == saved(a_model())
    assert [dict(m._forward_hooks) for m in model.modules()] == before
    assert hooks_of(model) == 5


def test_a_model_saved_with_its_hooks_can_be_read_where_lossguard_is_not(
    model: nn.Module, tmp_path: Path
) -> None:
    """Another thread must not touch the hooks: they go into its file, as something that needs
    nothing of ours and does nothing. What is read computes the same."""
    file = tmp_path / "model.pt"
    thread = threading.Thread(target=torch.save, args=(model, file))
    thread.start()
    thread.join()
    named_in_file = set(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    file_of_twin = tmp_path / "twin.pt"
    torch.save(a_model(), file_of_twin)
    named_by_torch = set(torch.serialization.get_unsafe_globals_in_checkpoint(file_of_twin))
    assert named_in_file - named_by_torch == {"builtins.getattr", "contextlib.nullcontext"}
    expected = model(torch.ones(1, 3)).item()
    code = (
        "import contextlib, sys; sys.modules['lossguard'] = None\n"
        "import torch; from torch import nn\n"
        "torch.serialization.add_safe_globals(\n"
        "    [nn.Sequential, nn.Linear, nn.ReLU, nn.Tanh, getattr, contextlib.nullcontext])\n"
        "print(torch.load(sys.argv[1])(torch.ones(1, 3)).item())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == expected
    assert hooks_of(model) == 5


@pytest.mark.parametrize("way", [copy.deepcopy, torch.optim.swa_utils.AveragedModel])
def test_a_copy_is_not_watched(watch: Watch, way: Any) -> None:
    """It computes the same, and nothing of it is measured."""
    model = a_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    records = Records(watch(model, optimizer))
    twin = way(model)
    model(torch.ones(2, 3)).sum().backward()
    assert torch.equal(twin(torch.ones(2, 3)), model(torch.ones(2, 3)))
    twin(torch.full((2, 3), 1e3))
    optimizer.step()
    assert records.steps[0]["input_absmax"] == 1.0
    assert records.steps[0]["act_rms/0"] < 10.0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_compiles_a_watched_model_and_its_copies(model: nn.Module) -> None:
    """Hooks of ours are Python; those of the script itself are compiled, or refused, as ever."""
    x = torch.ones(2, 3)
    for one in (model, copy.deepcopy(model)):
        scripted: Any = torch.jit.script(one)
        assert torch.equal(scripted(x), one(x))
    assert hooks_of(model) == 5
    model.register_forward_hook(lambda module, args, output: None)
    with pytest.raises(RuntimeError):
        torch.jit.script(model)
    assert hooks_of(model) == 6


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tracing_records_nothing_of_ours(model: nn.Module) -> None:
    """The same operations as of a model that nobody watches."""
    x = torch.ones(2, 3)
    traced, plain = torch.jit.trace(model, x), torch.jit.trace(a_model(), x)
    assert torch.equal(traced(x), plain(x))
    kinds = [[n.kind() for n in t.inlined_graph.nodes()] for t in (traced, plain)]
    assert kinds[0] == kinds[1]


def test_symbolic_tracing_and_export_see_the_plain_model(model: nn.Module) -> None:
    """No operation of ours in either graph."""
    x = torch.ones(2, 3)
    for trace in (torch.fx.symbolic_trace, lambda m: torch.export.export(m, (x,))):
        graphs = [[n.op for n in trace(m).graph.nodes] for m in (model, a_model())]
        assert graphs[0] == graphs[1]


# --- by themselves --------------------------------------------------------------------------


def test_hooks_come_back_in_their_order() -> None:
    """Among those of the script, which may come and go meanwhile."""
    module = nn.Linear(1, 1)
    called: list[str] = []

    def note(name: str) -> Any:
        return lambda *args: called.append(name)

    gone = module.register_forward_hook(note("gone"))
    module.register_forward_hook(note("first"))
    ours = Hooks()
    ours.after_forward(module, note("ours"))
    module.register_forward_hook(note("last"))
    ours.take_off()
    ours.take_off()
    gone.remove()
    module.register_forward_hook(note("new"))
    ours.put_back()
    module(torch.ones(1))
    assert called == ["first", "last", "new"]
    ours.put_back()
    called.clear()
    module(torch.ones(1))
    assert called == ["first", "ours", "last", "new"]
    ours.remove()
    ours.remove()
    assert len(module._forward_hooks) == 3


def test_only_who_took_them_off_puts_them_back() -> None:
    """A save in another thread changes nothing."""
    module = nn.Linear(1, 1)
    ours = Hooks()
    ours.before_forward(module, lambda *args: None)
    ours.put_back()
    ours.take_off()
    thread = threading.Thread(target=ours.put_back)
    thread.start()
    thread.join()
    assert not module._forward_pre_hooks
    assert not module._forward_pre_hooks_with_kwargs
    ours.put_back()
    assert len(module._forward_pre_hooks) == 1
    assert len(module._forward_pre_hooks_with_kwargs) == 1


def test_what_copying_leaves_can_be_dropped() -> None:
    """And nothing else."""
    module = nn.Linear(1, 1)
    ours = Hooks()
    ours.before_forward(module, lambda *args: None)
    ours.after_forward(module, lambda *args: None)
    module.register_forward_hook(_scripts_own)
    file = io.BytesIO()
    torch.save(copy.deepcopy(module), file)
    file.seek(0)
    with torch.serialization.safe_globals([*IN_A_MODEL, _scripts_own]):
        twin = torch.load(file)
    assert hooks_of(twin) == 3
    drop_copies(twin)
    assert list(twin._forward_hooks.values()) == [_scripts_own]
    assert not twin._forward_pre_hooks_with_kwargs
    assert torch.equal(twin(torch.ones(1)), module(torch.ones(1)))
    drop_copies("no model")
    assert hooks_of(module) == 3


def _scripts_own(module: nn.Module, args: Any, output: Tensor) -> None:
    """A hook that is saved by name."""


def test_a_failure_to_take_hooks_off_still_saves(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line; the file is good."""
    model = a_model()
    guard = watch(model, torch.optim.SGD(model.parameters(), lr=0.1))

    def fails(self: Hooks) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(Hooks, "take_off", fails)
    for _ in range(2):
        with torch.serialization.safe_globals(IN_A_MODEL):
            loaded = torch.load(io.BytesIO(saved(model)))
        assert torch.equal(loaded(torch.ones(1, 3)), model(torch.ones(1, 3)))
    assert [r.getMessage() for r in caplog.records if r.name == "lossguard"] == [
        "the hooks probe failed (ValueError: broken) and is off; training goes on"
    ]
    assert loop_of(guard)._shield._off == {"hooks"}
