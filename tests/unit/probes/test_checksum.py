"""One number of all weights: any flipped bit changes it, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from lossguard.probes.checksum import _PRIME, WeightChecksum
from tests.unit.probes.loops import Records, Tiny, Watch, loss_of
from tests.unit.probes.test_no_host_read import VIEWS, Operations, Strict

CPU = torch.device("cpu")
DTYPES = (
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64,
    torch.float8_e4m3fn,
)  # fmt: skip


def checksum(*tensors: Tensor) -> float:
    """Of these."""
    found = WeightChecksum(tensors, CPU).measure()
    assert found is not None
    assert found.dtype is torch.float32
    return float(found)


def flip(tensor: Tensor, byte: int, bit: int) -> None:
    """One bit, in place; a second time undoes it."""
    tensor.detach().contiguous().untyped_storage()[byte] ^= 1 << bit


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_single_bit_counts(dtype: torch.dtype) -> None:
    """Of every byte of every element, and back again."""
    tensors = [torch.randn(5).to(dtype), torch.randn(3, 2).to(dtype), torch.randn(()).to(dtype)]
    before = checksum(*tensors)
    for tensor in tensors:
        for byte in range(tensor.untyped_storage().nbytes()):
            for bit in range(8):
                flip(tensor, byte, bit)
                assert checksum(*tensors) != before, (byte, bit)
                flip(tensor, byte, bit)
    assert checksum(*tensors) == before


@pytest.mark.parametrize("layout", [lambda t: t, lambda t: t.t(), lambda t: t[:, ::2]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_may_lie_in_any_order(
    layout: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    """Transposed and with gaps they have the number of their copy."""
    tensor = layout(torch.randn(6, 4).to(dtype))
    assert checksum(tensor) == checksum(tensor.clone(memory_format=torch.contiguous_format))


def test_it_is_a_whole_number_that_a_float32_carries() -> None:
    """Also of weights whose bits add up to far more."""
    found = checksum(*(torch.full((50_000,), -1e30) for _ in range(20)))
    assert found == int(found)
    assert 0 <= found < _PRIME < 2**24


def test_no_power_of_two_is_lost_by_the_prime() -> None:
    """What a flipped bit adds or takes away, an overflow included, never leaves nothing."""
    assert all(_PRIME % divisor for divisor in range(2, 4097))
    powers = [pow(2, n, _PRIME) for n in range(1, 65)]
    assert not {1, _PRIME - 1} & set(powers)


def test_tensors_that_change_places_are_noticed() -> None:
    """Each counts by its place."""
    one, other = torch.randn(4), torch.randn(4)
    assert checksum(one, other) != checksum(other, one)


def test_it_costs_one_reduction_a_tensor_and_reads_nothing() -> None:
    """Nothing of the size of a weight is copied."""
    sums = WeightChecksum([nn.Parameter(torch.randn(64, 64)) for _ in range(7)], CPU)
    with Strict(), Operations() as operations:
        sums.measure()
    counts = {n: c for n, c in operations.counts.items() if n not in VIEWS}
    assert counts == {"sum": 8, "stack": 1, "_to_copy": 2, "mul_": 1, "remainder": 1}


def test_only_what_every_rank_has_whole_counts() -> None:
    """Shards have no replica; a distributed tensor that is replicated is as good as a plain one."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    try:
        mesh = init_device_mesh("cpu", (2, 2))
        plain, local = torch.randn(4), torch.randn(4)
        whole, cut, half = (
            DTensor.from_local(local, mesh, placements, run_check=False)
            for placements in (
                (Replicate(), Replicate()),
                (Shard(0), Shard(0)),
                (Replicate(), Shard(0)),
            )
        )
        assert checksum(plain, cut, half, whole) == checksum(plain, local)
        assert WeightChecksum([cut, half], CPU).measure() is None
    finally:
        dist.destroy_process_group()


@pytest.mark.usefixtures("no_link")
def test_only_ranks_of_several_measure_it_at_sampled_steps(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the update of steps 16 and 32; alone nobody does."""
    for world, expected in (("1", []), ("2", [16, 32])):
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", world)
        model = Tiny()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        records = Records(watch(model, optimizer, name=f"of {world}"))
        sums = []
        for step in range(34):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            sums.append(checksum(*model.parameters()))
            optimizer.step()
        found = records.of("weight_checksum")
        assert [i + 1 for i, value in enumerate(found) if value is not None] == expected
        assert [found[i - 1] for i in expected] == [sums[i - 1] for i in expected]
