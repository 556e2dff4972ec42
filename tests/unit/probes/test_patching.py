"""Standing in front of a function: nobody notices, and afterwards nobody was there."""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional
from torch.nn.functional import cross_entropy as imported_by_name

from lossguard.probes import patches
from lossguard.probes.listener import Listener, LossCall
from lossguard.probes.patching import swap, wrap

LOGITS = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)
CLASSES = torch.tensor([0, 1, 2, 0])


class Ears(Listener):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.losses: list[LossCall] = []
        self.saves = 0

    def on_loss(self, call: LossCall) -> None:
        self.losses.append(call)

    def after_save(self) -> None:
        self.saves += 1


@pytest.fixture
def ears() -> Iterator[Ears]:
    """Listening for one test."""
    listener = Ears()
    patches.listen(listener)
    yield listener
    patches.stop_listening(listener)


def loss_of(logits: Tensor, classes: Tensor) -> Tensor:
    """What scripts compile, trace and script."""
    return functional.cross_entropy(logits, classes)


def test_every_way_to_call_a_loss_is_heard(ears: Ears) -> None:
    """By name, by attribute, through the module; positional or not; with the same result."""
    expected = float(-LOGITS.log_softmax(1)[range(4), CLASSES].mean())
    ways = [
        functional.cross_entropy(LOGITS, CLASSES),
        functional.cross_entropy(target=CLASSES, input=LOGITS, reduction="mean"),
        imported_by_name(LOGITS, CLASSES),
        nn.CrossEntropyLoss()(LOGITS, CLASSES),
        torch.nn.functional.cross_entropy(LOGITS, CLASSES, None, None, -100, None, "mean", 0.0),
    ]
    assert [float(way) for way in ways] == pytest.approx([expected] * len(ways))
    assert [call.name for call in ears.losses] == ["cross_entropy"] * len(ways)
    for call in ears.losses:
        given = call.arguments()
        assert given["input"] is LOGITS
        assert given["target"] is CLASSES
        assert (given["ignore_index"], given["reduction"]) == (-100, "mean")


@pytest.mark.parametrize("name", patches.LOSSES)
def test_a_loss_keeps_all_that_python_says_of_it(ears: Ears, name: str) -> None:
    """Identity, name, signature, documentation; pickled and copied it is itself."""
    function = getattr(functional, name)
    assert function.__code__.co_filename.endswith("patching.py"), "it is swapped"
    assert saved_and_loaded(function, function) is function
    assert copy.deepcopy(function) is function
    before = inspect.signature(function)
    patches.stop_listening(ears)
    assert function.__code__.co_filename.endswith("functional.py")
    assert inspect.signature(function) == before
    assert (function.__name__, function.__module__) == (name, "torch.nn.functional")
    assert not hasattr(function, "__wrapped__")


def saved_and_loaded(thing: Any, *named: Any) -> Any:
    """``thing`` out of the file it was saved to, which names ``named`` and nothing else."""
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    with torch.serialization.safe_globals(list(named)):
        return torch.load(file)


def test_a_module_that_holds_a_loss_can_be_saved(ears: Ears) -> None:
    """``torch.save(model)`` writes functions by name, before and after."""
    model = nn.Linear(2, 1)
    model.loss = functional.mse_loss  # type: ignore[assignment]
    during = saved_and_loaded(model, nn.Linear, functional.mse_loss)
    patches.stop_listening(ears)
    after = saved_and_loaded(model, nn.Linear, functional.mse_loss)
    assert during.loss is after.loss is functional.mse_loss
    assert ears.saves == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_compiles_the_original(ears: Ears) -> None:
    """A function that calls a loss, and a module that holds one."""
    scripted = torch.jit.script(loss_of)
    module: Any = torch.jit.script(nn.CrossEntropyLoss())
    expected = loss_of(LOGITS, CLASSES)
    assert torch.equal(scripted(LOGITS, CLASSES), expected)
    assert torch.equal(module(LOGITS, CLASSES), expected)


def test_what_is_traced_or_mapped_is_not_heard(ears: Ears) -> None:
    """Symbolic tracing and ``vmap`` work as ever; what stands for a tensor is no measurement."""
    traced = torch.fx.symbolic_trace(loss_of)
    called = [n.target for n in traced.graph.nodes if n.op == "call_function"]
    assert called == [functional.cross_entropy]
    mapped = torch.vmap(loss_of)(LOGITS.expand(2, 4, 3), CLASSES.expand(2, 4))
    assert mapped.shape == (2,)
    torch.export.export(nn.CrossEntropyLoss(), (LOGITS, CLASSES))
    assert ears.losses == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_loss_stays_in_one_graph(backend: str) -> None:
    """The same frames and operations as without a listener, and the same value."""

    def compiled() -> tuple[int, int, float]:
        torch._dynamo.reset()
        counter = CompileCounterWithBackend(backend)
        function = torch.compile(loss_of, backend=counter, fullgraph=True)
        logits = LOGITS.clone().requires_grad_()
        for _ in range(3):
            loss = function(logits, CLASSES)
            loss.backward()
        return counter.frame_count, counter.op_count, float(loss.detach())

    plain = compiled()
    listener = Ears()
    patches.listen(listener)
    try:
        assert compiled() == plain
    finally:
        patches.stop_listening(listener)


def test_an_exception_of_the_original_comes_through(ears: Ears) -> None:
    """And nothing is heard of a call that failed."""
    with pytest.raises(TypeError, match="missing"):
        functional.mse_loss(LOGITS)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="batch_size"):
        functional.cross_entropy(LOGITS, CLASSES[:2])
    assert ears.losses == []


def test_two_listeners_change_torch_once() -> None:
    """The first to leave takes nothing away from the second."""
    one, other = Ears(), Ears()
    patches.listen(one)
    patches.listen(other)
    patches.stop_listening(one)
    loss_of(LOGITS, CLASSES)
    patches.stop_listening(other)
    loss_of(LOGITS, CLASSES)
    assert (len(one.losses), len(other.losses)) == (0, 1)


def test_only_plain_functions_are_swapped() -> None:
    """Not builtins, not closures, not twice, not what is not there."""
    word = "closed over"

    def closure() -> str:
        return word

    for function in (None, torch.add, closure, nn.Linear):
        assert swap(function, lambda original: original) is None

    def plain(a: int, b: int = 2, *, c: int = 3) -> int:
        return a + b + c

    function = types.FunctionType(plain.__code__, globals(), "plain", (2,))
    function.__kwdefaults__ = {"c": 3}
    undo = swap(function, lambda original: lambda *a, **k: -original(*a, **k))
    assert undo is not None
    assert swap(function, lambda original: original) is None
    assert (function(1), function(1, 1, c=1)) == (-6, -3)
    undo()
    undo()
    assert (function(1), function(1, 1, c=1)) == (6, 3)


def test_what_somebody_put_on_top_of_ours_stays() -> None:
    """Ours passes through then, and is inert."""
    owner = types.SimpleNamespace(function=lambda: 1)
    undo = wrap(owner, "function", lambda original: lambda: original() + 10)
    assert undo is not None
    ours = owner.function
    owner.function = lambda: ours() + 100
    assert owner.function() == 111
    undo()
    assert owner.function() == 101
    assert wrap(owner, "nothing", lambda original: original) is None


# --- saving ---------------------------------------------------------------------------------


def test_saving_is_heard_once_it_has_worked(ears: Ears, tmp_path: Any) -> None:
    """A failed one is not, an imported name is."""
    save = torch.save
    save({"a": 1}, tmp_path / "a.pt")
    assert ears.saves == 1
    with pytest.raises(RuntimeError):
        torch.save({"a": 1}, tmp_path / "no" / "such" / "folder.pt")
    assert ears.saves == 1


def test_a_module_that_saves_is_heard_once_it_is_imported(
    ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors, by whatever name the script has imported its function; and undone at the end."""
    module: Any = types.ModuleType("safetensors.torch")
    exec("def save_file(tensors, filename, metadata=None): return 'saved'", module.__dict__)
    by_name = module.save_file
    patches.notice_imports()
    by_name({}, "x")
    assert ears.saves == 0
    monkeypatch.setitem(sys.modules, "safetensors.torch", module)
    patches.notice_imports()
    patches.notice_imports()
    assert by_name({}, "x") == "saved"
    assert ears.saves == 1
    patches.stop_listening(ears)
    by_name({}, "x")
    assert ears.saves == 1


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_distributed_checkpoint_is_heard(ears: Ears, tmp_path: Any) -> None:
    """Of one process, which needs no group."""
    checkpoint: Any = importlib.import_module("torch.distributed.checkpoint")
    patches.notice_imports()
    assert checkpoint.save.__code__.co_filename.endswith("patching.py")
    checkpoint.save({"w": torch.ones(2)}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    assert ears.saves >= 1
    patches.stop_listening(ears)
    assert not checkpoint.save.__code__.co_filename.endswith("patching.py")
