"""Gradient norms against float64, for everything that can be a gradient."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_  # as scripts do: before the watch

from lossguard.probes import wire
from lossguard.probes.gradients import GradientNorms
from lossguard.probes.measurement import missing_value
from tests.unit.probes.loops import Records, Tiny, Watch, loop_of, loss_of

CPU = torch.device("cpu")


def measured(params: list[Tensor], inverse: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Norms that are there."""
    norms = GradientNorms(params, CPU, missing_value(CPU)).measure(inverse)
    assert norms is not None
    each, total = norms
    assert total is not None
    return each, total


def reference(gradient: Tensor) -> float:
    """The norm in float64."""
    dense = gradient.to_dense()
    wide = torch.complex128 if dense.is_complex() else torch.float64
    return float(torch.linalg.vector_norm(dense.to(wide)))


def is_missing(value: Tensor) -> bool:
    """Whether it carries the wire's bits, not just any NaN."""
    bits: int = struct.unpack("<I", struct.pack("<f", float("nan")))[0]
    assert bits != wire.MISSING_BITS
    return int(value.view(torch.int32)) == wire.MISSING_BITS


def with_gradient(gradient: Tensor) -> Tensor:
    """A parameter that has this gradient."""
    parameter = nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype))
    parameter.grad = gradient
    return parameter


MIXED = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
    "complex64": torch.complex64,
}


@pytest.mark.parametrize("names", [*([n] for n in MIXED), list(MIXED)], ids="-".join)
def test_norms_match_float64(names: list[str]) -> None:
    """Each dtype alone, and all in one model, with 0-d, empty and large shapes among them."""
    shapes = [(), (0,), (7,), (33, 65), (1, 2, 3)]
    params = [
        with_gradient(torch.randn(shape, dtype=MIXED[name])) for name in names for shape in shapes
    ]
    each, total = measured(params)
    expected = [reference(p.grad) for p in params if p.grad is not None]
    assert each.tolist() == pytest.approx(expected, rel=1e-5)
    assert float(total) == pytest.approx(math.hypot(*expected), rel=1e-5)


def test_a_long_bf16_gradient_is_summed_in_float32() -> None:
    """In bf16 the sum of a million squares would stop growing early."""
    each, _ = measured([with_gradient(torch.full((1_000_000,), 0.01, dtype=torch.bfloat16))])
    assert each.item() == pytest.approx(10.0, rel=1e-2)


def test_parameters_without_gradient_are_missing_and_count_nothing() -> None:
    """Missing, not zero and not NaN; the total is over the others."""
    params = [
        with_gradient(torch.ones(4)),
        nn.Parameter(torch.ones(3)),
        with_gradient(torch.ones(5)),
    ]
    each, total = measured(params)
    assert [is_missing(x) for x in each] == [False, True, False]
    assert float(total) == pytest.approx(3.0)


def test_without_any_gradient_there_is_no_norm() -> None:
    """Not a NaN: that would look like the worst of gradients."""
    assert GradientNorms([nn.Parameter(torch.ones(2))], CPU, missing_value(CPU)).measure() is None


def test_a_step_without_gradients_is_not_vetoed(watch: Watch) -> None:
    """Nothing to update is nothing to complain about."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    records = Records(watch(model, optimizer, policy="guard"))
    optimizer.step()
    torch.zeros((), requires_grad=True).backward()
    optimizer.step()
    assert records.of("skipped") == [0, 0]
    assert records.of("grad_norm") == [None, None]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_a_nonfinite_element_survives_into_both_norms(bad: float, dtype: torch.dtype) -> None:
    """One among a thousand."""
    gradient = torch.ones(1000, dtype=dtype)
    gradient[500] = bad
    each, total = measured([with_gradient(gradient), with_gradient(torch.ones(3))])
    assert not each[0].isfinite()
    assert not total.isfinite()
    assert not is_missing(total)


@pytest.mark.parametrize("coalesced", [False, True])
def test_a_sparse_embedding_counts_each_row_once(coalesced: bool) -> None:
    """Rows that occur several times add up before the norm is taken, and grad is not touched."""
    embedding = nn.Embedding(10, 4, sparse=True)
    (embedding(torch.tensor([1, 1, 3])) * torch.randn(3, 4)).sum().backward()
    gradient = embedding.weight.grad
    assert gradient is not None
    if coalesced:
        embedding.weight.grad = gradient = gradient.coalesce()
    each, _ = measured([embedding.weight])
    assert each.item() == pytest.approx(reference(gradient), rel=1e-6)
    assert embedding.weight.grad is gradient
    assert gradient.is_coalesced() is coalesced


def test_the_loss_scale_is_taken_out() -> None:
    """Where a fused kernel does the un-scaling, the norms are of un-scaled gradients."""
    each, total = measured([with_gradient(torch.full((4,), 512.0))], torch.tensor(1 / 256))
    assert each.tolist() == [4.0]
    assert float(total) == 4.0


def test_tied_weights_are_counted_once(watch: Watch) -> None:
    """Two names, one tensor, one norm."""
    model = Tiny()
    model.head.weight = model.embedding.weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    loss_of(model, 1).backward()
    total = torch.nn.utils.get_total_norm(
        [p.grad for p in model.parameters() if p.grad is not None]
    )
    optimizer.step()
    assert records.of("grad_norm")[0] == pytest.approx(float(total), rel=1e-6)
    assert "grad_norm/head.weight" not in records.steps[0]


# --- clipping -------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [False, True])
def test_the_norm_is_that_before_clipping(watch: Watch, direct: bool) -> None:
    """Also when the function was imported before, given a generator, or called in two halves."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    loss_of(model, 1).backward()
    if direct:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        own = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_((p for p in model.parameters()), 1e-3, own)
    else:
        own = clip_grad_norm_((p for p in model.parameters()), 1e-3)
    optimizer.step()
    assert records.of("grad_norm")[0] == pytest.approx(float(own), rel=1e-6)
    assert float(own) > 0.01


def test_the_norm_is_that_before_clipping_by_value(watch: Watch) -> None:
    """``clip_grad_value_`` by its usual name."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    loss_of(model, 1).backward()
    own = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    torch.nn.utils.clip_grad_value_(model.parameters(), 1e-6)
    optimizer.step()
    assert records.of("grad_norm")[0] == pytest.approx(float(own), rel=1e-6)
    assert callable(clip_grad_value_)


def test_clipping_in_parts_measures_all_before_the_first(watch: Watch) -> None:
    """One call a group: the total is of what none of them has touched yet."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    loss_of(model, 1).backward()
    own = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    for child in model.children():
        clip_grad_norm_(child.parameters(), 1e-3)
    optimizer.step()
    assert records.of("grad_norm")[0] == pytest.approx(float(own), rel=1e-6)


def test_clipping_somebody_elses_gradients_measures_nothing(watch: Watch) -> None:
    """Ours may not even be there yet."""
    model, other = Tiny(), Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = watch(model, optimizer)
    loss_of(other, 1).backward()
    clip_grad_norm_(other.parameters(), 1e-3)
    assert loop_of(guard)._senses._norms is None


def test_norms_of_an_earlier_backward_are_not_used(watch: Watch) -> None:
    """Clipping, then one more micro-batch: the step's own gradients are measured."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    loss_of(model, 1).backward()
    clip_grad_norm_(model.parameters(), 1e-3)
    loss_of(model, 2).backward()
    now = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    optimizer.step()
    assert records.of("grad_norm")[0] == pytest.approx(float(now), rel=1e-6)


def test_another_models_backward_does_not_void_the_norms(watch: Watch) -> None:
    """Clip, train something else, step: still the norm from before the clipping."""
    model, other = Tiny(), Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    loss_of(model, 1).backward()
    own = clip_grad_norm_(model.parameters(), 1e-3)
    loss_of(other, 1).backward()
    optimizer.step()
    assert records.of("grad_norm")[0] == pytest.approx(float(own), rel=1e-6)
