"""The norms that clipping computes are used, and clipping computes as ever."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad
from torch.utils._python_dispatch import TorchDispatchMode

from lossguard.probes.clipping import noting
from lossguard.probes.gradients import GradientNorms
from lossguard.probes.measurement import missing_value
from tests.unit.probes.loops import Records, Tiny, Watch, loss_of

pytestmark = pytest.mark.usefixtures("no_link")

CPU = torch.device("cpu")


class Elements(TorchDispatchMode):
    """How often each operation ran, and how many elements norms were taken of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()
        self.read = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.counts[name] += 1
        if name in ("_foreach_norm", "linalg_vector_norm"):
            given = args[0] if isinstance(args[0], (list, tuple)) else [args[0]]
            self.read += sum(tensor.numel() for tensor in given)
        return func(*args, **(kwargs or {}))


def clipped_step(watch: Watch | None, clip: Callable[[nn.Module], Any] | None) -> Elements:
    """The third step of a training; in the others nothing is counted."""
    torch.manual_seed(0)
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = watch(model, optimizer) if watch else None
    elements = Elements()
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        elements = Elements()
        with elements:
            if clip is not None:
                clip(model)
            optimizer.step()
    if guard is not None:
        guard.close()
    return elements


def clip_by_norm(model: nn.Module) -> Any:
    """As scripts do."""
    return nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def test_clipping_saves_the_pass_over_the_gradients(watch: Watch) -> None:
    """Without clipping, one pass over every element is ours; with it none is."""
    elements = sum(p.numel() for p in Tiny().parameters())
    tensors = len(list(Tiny().parameters()))
    plain, watched = clipped_step(None, None), clipped_step(watch, None)
    assert (plain.read, watched.read) == (0, elements + tensors)
    plain, watched = clipped_step(None, clip_by_norm), clipped_step(watch, clip_by_norm)
    assert (plain.read, watched.read) == (elements + tensors, elements + 2 * tensors)
    added = watched.counts - plain.counts
    assert {name: added[name] for name in ("_foreach_norm", "linalg_vector_norm")} == {
        "_foreach_norm": 0,
        "linalg_vector_norm": 1,
    }


@pytest.mark.parametrize("foreach", [True, False, None])
def test_clipping_one_by_one_is_used_too(watch: Watch, foreach: bool | None) -> None:
    """Whatever way torch takes."""
    elements = sum(p.numel() for p in Tiny().parameters())

    def clip(model: nn.Module) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=foreach)

    assert clipped_step(watch, clip).read < 2 * elements


def test_a_norm_that_is_only_looked_at_is_used(watch: Watch) -> None:
    """A script that logs the norm and does not clip pays for one pass, too."""
    elements = sum(p.numel() for p in Tiny().parameters())

    def look(model: nn.Module) -> None:
        nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])

    assert clipped_step(watch, look).read < 2 * elements


def test_clipping_in_parts_is_used_for_the_first(watch: Watch) -> None:
    """One call a part: with the first all are measured, as the others are not clipped yet."""
    elements = sum(p.numel() for p in Tiny().parameters())

    def clip(model: nn.Module) -> None:
        for child in model.children():
            nn.utils.clip_grad_norm_(child.parameters(), 1.0)

    assert clipped_step(watch, clip).read < 2 * elements


# --- what clipping does is what it did ------------------------------------------------------


def clipped(model: nn.Module, **more: Any) -> tuple[Tensor, list[Tensor]]:
    """The total and the gradients after clipping, from the same gradients every time."""
    for i, p in enumerate(model.parameters()):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i)).to(p.dtype)
    total = nn.utils.clip_grad_norm_(model.parameters(), 0.3, **more)
    return total, [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("norm_type", [2, 2.0, 1.0, float("inf")])
@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_its_result_is_the_same_to_the_last_bit(
    watch: Watch, norm_type: float, foreach: bool | None, dtype: torch.dtype
) -> None:
    """Any norm, any way, any type."""
    model = Tiny().to(dtype)
    plain = clipped(model, norm_type=norm_type, foreach=foreach)
    watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    watched = clipped(model, norm_type=norm_type, foreach=foreach)
    assert torch.equal(watched[0], plain[0])
    assert all(torch.equal(a, b) for a, b in zip(watched[1], plain[1], strict=True))
    assert watched[0].dtype is plain[0].dtype


def test_it_raises_as_ever(watch: Watch) -> None:
    """``error_if_nonfinite``, and what is no tensor."""
    model = nn.Linear(2, 2)
    watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model.weight.grad = torch.full((2, 2), float("nan"))
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
    with pytest.raises(TypeError, match="not iterable"):
        nn.utils.clip_grad_norm_(3, 1.0)  # type: ignore[arg-type]


def test_the_gradient_of_a_norm_is_not_recorded(watch: Watch) -> None:
    """Neither before nor after: the total is a plain number."""
    model = nn.Linear(2, 2)
    watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    total = nn.utils.get_total_norm([torch.ones(3, requires_grad=True)])
    assert not total.requires_grad


# --- the norms are right --------------------------------------------------------------------


def norms_after(change: Callable[[list[Tensor]], Any], dtype: torch.dtype = torch.float32) -> Any:
    """What is measured when the gradients change between clipping's norms and ours."""
    params = [nn.Parameter(torch.zeros(4, dtype=dtype)) for _ in range(3)]
    for i, p in enumerate(params):
        p.grad = torch.full((4,), i + 1.0, dtype=dtype)
    norms = GradientNorms(list(params), CPU, missing_value(CPU))
    twin = noting(clip_grad._get_total_norm)
    assert twin is not None, "torch's function is not as we know it"
    found: list[tuple[Tensor, Tensor]] = []
    twin(found, [p.grad for p in params])
    norms.note(found)
    change(list(params))
    with Elements() as elements:
        measured = norms.measure()
    assert measured is not None
    return measured[0].tolist(), elements.counts["_foreach_norm"]


def test_gradients_that_did_not_change_are_not_read_again() -> None:
    """The twin of the tests below."""
    assert norms_after(lambda params: None) == ([2.0, 4.0, 6.0], 0)


def double(gradient: Tensor | None) -> None:
    """In place."""
    assert gradient is not None
    gradient.mul_(2)


def replace(*parameters: Tensor) -> None:
    """By others, perhaps in the very place of the first."""
    for parameter in parameters:
        parameter.grad = None
        parameter.grad = torch.full((4,), 5.0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda params: double(params[1].grad), [2.0, 8.0, 6.0]),
        (lambda params: torch._foreach_mul_([p.grad for p in params], 2.0), [4.0, 8.0, 12.0]),
        (lambda params: replace(params[0]), [10.0, 4.0, 6.0]),
        (lambda params: replace(*params), [10.0, 10.0, 10.0]),
    ],
)
def test_a_gradient_that_changed_is_measured_anew(change: Any, expected: list[float]) -> None:
    """In place, all at once, or replaced; and only that one."""
    assert norms_after(change) == (expected, 1)


def test_norms_in_half_precision_are_not_taken() -> None:
    """They keep three digits, and those of float16 overflow where the gradients do not."""
    each, passes = norms_after(lambda params: None, torch.float16)
    assert (each, passes) == ([2.0, 4.0, 6.0], 1)


def test_the_total_is_not_the_scripts_to_change(watch: Watch) -> None:
    """Scripts go on computing with it, in place."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    loss_of(model, 1).backward()
    total = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    expected = float(total)
    total.mul_(100)
    optimizer.step()
    assert records.of("grad_norm") == [pytest.approx(expected)]


def test_several_types_are_told_apart(watch: Watch) -> None:
    """Torch takes their norms in another order than that of the model; bf16's are ours."""
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.float32, torch.float64)
    params = [nn.Parameter(torch.ones(i + 1, dtype=d)) for i, d in enumerate(dtypes)]
    optimizer = torch.optim.SGD(params, lr=0.1)
    records = Records(watch(None, optimizer))
    for p in params:
        p.grad = torch.full_like(p, 2.0)
    nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()
    each = [records.steps[0][f"grad_norm/param.{i}"] for i in range(len(params))]
    assert each == pytest.approx([2 * (i + 1) ** 0.5 for i in range(len(params))])


def test_other_threads_are_not_heard() -> None:
    """Each call has its own list."""
    twin = noting(clip_grad._get_total_norm)
    assert twin is not None
    lists: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(4)]

    def work(found: list[tuple[Tensor, Tensor]], size: int) -> None:
        for _ in range(200):
            twin(found, [torch.ones(size)] * 3)

    threads = [threading.Thread(target=work, args=(x, i + 1)) for i, x in enumerate(lists)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, found in enumerate(lists):
        assert {t.numel() for t, _ in found} <= {i + 1, 3}
        assert len(found) == 200 * 4


def test_another_function_in_its_place_is_left_alone() -> None:
    """A library's own, or a torch that is built otherwise: nothing is taken over."""
    assert noting(lambda *args: 0) is None
    assert noting(torch.linalg.vector_norm) is None
    assert noting(clip_grad._clip_grads_with_norm_) is None
