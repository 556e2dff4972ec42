"""Parts of tensors that are cut over ranks, on a process group that only pretends to be one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.utils import clip_grad
from torch.testing._internal.distributed.fake_pg import FakeStore

from lossguard.probes import wire
from lossguard.probes.clipping import noting
from lossguard.probes.gradients import GradientNorms
from lossguard.probes.measurement import missing_value
from lossguard.probes.roots import is_loss, root_of
from lossguard.probes.sharded import holders, is_whole, local_part, share_of_gradient
from lossguard.probes.sharded_names import Holding
from lossguard.probes.training_state import TrainingState
from lossguard.probes.weights import Weights
from tests.unit.probes.loops import Records, Watch, loop_of

CPU = torch.device("cpu")
RANK = 5


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Eight ranks as 2 by 4, of which this is rank 5: row 1, column 1."""
    dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=8)
    yield init_device_mesh("cpu", (2, 4), mesh_dim_names=("rows", "columns"))
    dist.destroy_process_group()


def cut(mesh: DeviceMesh, *placements: Placement, local: Tensor | None = None) -> DTensor:
    """A distributed tensor with this part here, of threes."""
    part = torch.full((4,), 3.0) if local is None else local
    return DTensor.from_local(part, mesh, placements, run_check=False)


def parameter(value: DTensor, gradient: Any) -> nn.Parameter:
    """With that gradient."""
    made = nn.Parameter(value)
    made.grad = gradient
    return made


@pytest.mark.parametrize(
    ("placements", "ranks"),
    [
        ((Replicate(), Replicate()), ()),
        ((Shard(0), Replicate()), (1, 5)),
        ((Replicate(), Shard(0)), (4, 5, 6, 7)),
        ((Shard(0), Shard(1)), tuple(range(8))),
        ((Shard(0), Shard(0)), tuple(range(8))),
    ],
)
def test_the_holders_of_all_parts_are_named_once(
    mesh: DeviceMesh, placements: tuple[Placement, ...], ranks: tuple[int, ...]
) -> None:
    """Along a dimension of replicas only the peers of this rank."""
    value = cut(mesh, *placements, local=torch.ones(4, 4))
    assert holders(value) == ranks
    assert is_whole(value) == (ranks == ())


def test_a_mesh_of_a_few_ranks_names_them(mesh: DeviceMesh) -> None:
    """Global ranks, not places in the mesh; one rank alone holds the whole."""
    assert holders(cut(mesh["columns"], Shard(0))) == (4, 5, 6, 7)
    assert holders(cut(mesh["rows"], Shard(0))) == (1, 5)
    assert holders(torch.ones(3)) == ()
    assert holders(cut(DeviceMesh("cpu", [RANK]), Shard(0))) == ()


def test_a_rank_outside_of_the_mesh_names_who_is_in_it(mesh: DeviceMesh) -> None:
    """It holds nothing itself."""
    assert holders(cut(DeviceMesh("cpu", [2, 3]), Shard(0), local=torch.empty(0))) == (2, 3)


def test_values_say_who_holds_their_parts() -> None:
    """Where all are cut alike, the total is cut so too; else the family has to be put together."""
    names = ["loss", "grad_norm", "grad_norm/a", "grad_norm/b", "act_rms/x", "weight_norm/b"]
    alike = Holding(["a", "b"], {"a": (0, 1), "b": (0, 1)})
    assert alike.groups == [[0, 1]]
    assert alike.held_by(names) == [wire.WHOLE, 0, 0, 0, wire.WHOLE, 0]
    mixed = Holding(["a", "b"], {"b": (0, 1)})
    assert mixed.held_by(names) == [wire.WHOLE, wire.OF_FAMILY, wire.WHOLE, 0, wire.WHOLE, 0]
    two = Holding(["a", "b"], {"a": (0, 2), "b": (0, 1)})
    assert two.groups == [[0, 2], [0, 1]]
    assert two.held_by(names)[1:4] == [wire.OF_FAMILY, 0, 1]
    assert Holding(["a", "b"], {}).held_by(names) == []


# --- norms ----------------------------------------------------------------------------------


def norms_of(*parameters: Tensor, clip_first: bool = False) -> tuple[list[float], float | None]:
    """What is measured, and that it takes no collective."""
    norms = GradientNorms(list(parameters), CPU, missing_value(CPU))
    if clip_first:
        twin, found = noting(clip_grad._get_total_norm), list[tuple[Tensor, Tensor]]()
        assert twin is not None
        twin(found, [p.grad for p in parameters if p.grad is not None])
        norms.note(found)
    with CommDebugMode() as communication:
        measured = norms.measure(clips=clip_first)
    assert communication.get_total_counts() == 0
    assert measured is not None
    each, total = measured
    assert type(each) is Tensor
    return each.tolist(), None if total is None else float(total)


@pytest.mark.parametrize("clip_first", [False, True])
def test_the_part_that_lies_here_is_measured(mesh: DeviceMesh, clip_first: bool) -> None:
    """Sharded and replicated; also where torch's clipping has taken the norms."""
    sharded = cut(mesh, Shard(0), Replicate())
    whole = cut(mesh, Replicate(), Replicate())
    each, total = norms_of(
        parameter(sharded, cut(mesh, Shard(0), Replicate())),
        parameter(whole, cut(mesh, Replicate(), Replicate(), local=torch.full((4,), 4.0))),
        clip_first=clip_first,
    )
    assert each == [6.0, 8.0]
    assert total == 10.0


def test_a_gradient_still_to_be_summed_has_no_norm_and_leaves_no_total(
    mesh: DeviceMesh, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, not at every step."""
    whole = cut(mesh, Replicate(), Replicate())
    pending = parameter(whole, cut(mesh, Partial(), Replicate()))
    known = parameter(whole, cut(mesh, Replicate(), Replicate()))
    norms = GradientNorms([pending, known], CPU, missing_value(CPU))
    for _ in range(3):
        with CommDebugMode() as communication:
            measured = norms.measure()
        assert communication.get_total_counts() == 0
        assert measured is not None
        assert int(measured[0][0].view(torch.int32)) == wire.MISSING_BITS
        assert (float(measured[0][1]), measured[1]) == (6.0, None)
    assert [r.message.count("summed over the ranks") for r in caplog.records] == [1]


def test_plain_and_distributed_gradients_stand_side_by_side(mesh: DeviceMesh) -> None:
    """Torch cannot put them into one operation; we do not ask it to."""
    plain = nn.Parameter(torch.ones(4))
    plain.grad = torch.full((4,), 4.0)
    sharded = parameter(cut(mesh, Shard(0), Replicate()), cut(mesh, Shard(0), Replicate()))
    empty = parameter(
        cut(mesh, Shard(0), Replicate(), local=torch.empty(0)),
        cut(mesh, Shard(0), Replicate(), local=torch.empty(0)),
    )
    each, total = norms_of(plain, sharded, empty)
    assert each == [8.0, 6.0, 0.0]
    assert total == 10.0


@pytest.mark.parametrize(
    ("change", "clips", "expected"),
    [
        (lambda g: None, True, 5.0),
        (lambda g: None, False, 6.0),
        (lambda g: torch._foreach_mul_([g], 2.0), False, 12.0),
        (lambda g: g.mul_(2.0), True, 12.0),
        (lambda g: g._local_tensor.mul_(2.0), True, 12.0),
    ],
)
def test_a_norm_of_parts_is_used_where_nothing_can_have_changed(
    mesh: DeviceMesh, change: Any, clips: bool, expected: float
) -> None:
    """Foreach operations on distributed tensors are not counted, so only clipping is believed. A 5
    is what was noted."""
    value, gradient = cut(mesh, Shard(0), Replicate()), cut(mesh, Shard(0), Replicate())
    norms = GradientNorms([parameter(value, gradient)], CPU, missing_value(CPU))
    norms.note([(gradient, cut(mesh, Partial(), Replicate(), local=torch.tensor(5.0)))])
    with torch.no_grad():
        change(gradient)
    measured = norms.measure(clips=clips)
    assert measured is not None
    assert measured[0].tolist() == [expected]


@pytest.mark.parametrize(
    "of_norm", [(Replicate(), Replicate()), (Partial(), Partial()), (Shard(0), Replicate())]
)
def test_a_norm_that_is_of_something_else_is_not_used(
    mesh: DeviceMesh, of_norm: tuple[Placement, Placement]
) -> None:
    """Of a part here the norm must be one of parts, along the very dimensions."""
    value, gradient = cut(mesh, Shard(0), Replicate()), cut(mesh, Shard(0), Replicate())
    norms = GradientNorms([parameter(value, gradient)], CPU, missing_value(CPU))
    local = torch.tensor([5.0]) if of_norm[0].is_shard() else torch.tensor(5.0)
    norms.note([(gradient, cut(mesh, *of_norm, local=local))])
    measured = norms.measure(clips=True)
    assert measured is not None
    assert measured[0].tolist() == [6.0]


def test_clipping_knows_the_norm_of_a_gradient_still_to_be_summed(mesh: DeviceMesh) -> None:
    """It sums it up, so the norm it takes is that of the whole."""
    pending = parameter(cut(mesh, Replicate(), Replicate()), cut(mesh, Partial(), Replicate()))
    assert pending.grad is not None
    norms = GradientNorms([pending], CPU, missing_value(CPU))
    norms.note([(pending.grad, cut(mesh, Replicate(), Replicate(), local=torch.tensor(5.0)))])
    measured = norms.measure(clips=True)
    assert measured is not None
    assert measured[0].tolist() == [5.0]
    assert measured[1] is not None


def test_weights_are_measured_where_they_lie(mesh: DeviceMesh) -> None:
    """Norms and ratios, without a collective."""
    weight = nn.Parameter(cut(mesh, Shard(0), Replicate()))
    weights = Weights([weight], missing_value(CPU))
    with CommDebugMode() as communication:
        assert weights.norms().tolist() == [6.0]
        weights.before_update()
        with torch.no_grad():
            local_part(weight).mul_(1.5)
        weights.after_update(None)
        ratios = weights.take_ratios()
    assert ratios is not None
    assert ratios.tolist() == [0.5]
    assert communication.get_total_counts() == 0


def test_a_distributed_loss_counts_where_it_is_whole(mesh: DeviceMesh) -> None:
    """``loss_parallel`` gives one; what is still to be summed is not known here."""
    whole = cut(mesh, Replicate(), Replicate(), local=torch.tensor(2.5))
    with CommDebugMode() as communication:
        assert is_loss(whole)
        root = root_of(whole)
        assert not is_loss(cut(mesh, Partial(), Replicate(), local=torch.tensor(2.5)))
    assert type(root.value) is Tensor
    assert float(root.value) == 2.5
    assert communication.get_total_counts() == 0


@pytest.mark.usefixtures("no_link")
def test_a_whole_watched_step_communicates_nothing(mesh: DeviceMesh, watch: Watch) -> None:
    """Seventeen updates of a sharded weight, a sampled one among them; and who holds it is said."""
    weight = nn.Parameter(cut(mesh, Shard(0), Shard(0)))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    guard = watch(None, optimizer)
    records = Records(guard)
    layouts: list[wire.Layout] = []
    put = loop_of(guard)._outbox.put
    loop_of(guard)._outbox.put = lambda item: (layouts.append(item.layout), put(item))[1]  # type: ignore[method-assign, func-returns-value, union-attr]
    for _ in range(17):
        weight.grad = cut(mesh, Shard(0), Shard(0))
        with CommDebugMode() as communication:
            optimizer.step()
        assert communication.get_total_counts() == 0
    assert not loop_of(guard)._shield._off
    assert records.of("grad_norm") == [6.0] * 17
    assert records.steps[15]["weight_norm/param.0"] == pytest.approx(2 * abs(3 - 1.5 * 15))
    assert {tuple(layout.holders[0]) for layout in layouts} == {tuple(range(8))}


def trained(*parameters: nn.Parameter) -> TrainingState:
    """With Adam, which has stepped."""
    optimizer = torch.optim.AdamW(parameters, lr=0.1, foreach=False)
    optimizer.step()
    return TrainingState(None, [optimizer])


def test_what_lies_here_is_captured_and_comes_back_in_place(mesh: DeviceMesh) -> None:
    """Weights and moments, twice, and without a word to the other ranks; moments that are gone come
    back cut as their parameter is."""
    weight = parameter(cut(mesh, Shard(0), Shard(0)), cut(mesh, Shard(0), Shard(0)))
    state = trained(weight)
    optimizer = state.optimizers[0]

    def here() -> list[Tensor]:
        with torch.no_grad():
            moments = [v for v in optimizer.state[weight].values() if v.dim()]
            return [local_part(t).clone() for t in (weight, *moments)]

    with CommDebugMode() as communication:
        before, kept = here(), state.capture()
        for loses_moments in (False, True):
            optimizer.step()
            assert not all(map(torch.equal, here(), before))
            if loses_moments:
                optimizer.state.clear()
            state.restore(kept, random_generators=False)
            assert all(map(torch.equal, here(), before))
            assert isinstance(optimizer.state[weight]["exp_avg"], DTensor)
        optimizer.step()
    assert communication.get_total_counts() == 0


def test_shares_of_the_squared_norm_add_up_to_no_more_than_the_whole(mesh: DeviceMesh) -> None:
    """Exactly to it where all is cut alike; below where some is held by more ranks."""
    by_all = parameter(cut(mesh, Shard(0), Shard(0)), cut(mesh, Shard(0), Shard(0)))
    by_row = parameter(cut(mesh, Replicate(), Shard(0)), cut(mesh, Replicate(), Shard(0)))
    plain = nn.Parameter(torch.zeros(2))
    for parameters, share in (
        ((by_all,), 1.0), ((by_row,), 0.5), ((by_all, by_row), 0.5), ((by_all, plain), 0.125),
        ((plain,), None),
    ):  # fmt: skip
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        assert share_of_gradient(TrainingState(None, [optimizer]), 8) == share
