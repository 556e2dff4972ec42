"""Page-locked memory: taken, shared out, used again, given back. Without a device."""

from __future__ import annotations

import gc

import pytest
import torch

from lossguard.probes import pinned
from lossguard.probes.pinned import PinnedMemory, pinned_like, side_by_side

LARGE = 4 << 20


class Driver:
    """Stands in for the CUDA runtime: what is locked, and how much of it."""

    def __init__(self) -> None:
        self.locked: dict[int, int] = {}
        self.answer = 0

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        """0, or the error that the test wants."""
        assert address not in self.locked
        if not self.answer:
            self.locked[address] = size
        return self.answer

    def cudaHostUnregister(self, address: int) -> int:
        """Only what was locked."""
        del self.locked[address]
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """In the place of the real one; the process's pool is a new one."""
    driver = Driver()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    monkeypatch.setattr(pinned, "POOL", PinnedMemory())
    return driver


def test_what_nobody_refers_to_any_more_is_taken_again(driver: Driver) -> None:
    """A view keeps it, and a tensor of another type over it."""
    first = pinned.POOL.take(LARGE)
    place = first.data_ptr()
    view = first[100:200].view(torch.int32)
    del first
    gc.collect()
    second = pinned.POOL.take(LARGE)
    assert second.data_ptr() != place
    del view
    third = pinned.POOL.take(LARGE - 100)
    assert third.data_ptr() == place
    assert sorted(driver.locked.values()) == [LARGE, LARGE]


def test_it_is_not_taken_for_something_much_smaller(driver: Driver) -> None:
    """That would hold on to gigabytes for a few numbers."""
    place = pinned.POOL.take(LARGE).data_ptr()
    assert pinned.POOL.take(LARGE // 2).data_ptr() != place


def test_what_is_free_can_be_given_back_and_what_is_used_stays(driver: Driver) -> None:
    """As at the end of a run."""
    used = pinned.POOL.take(LARGE)
    pinned.POOL.take(2 * LARGE)
    pinned.POOL.trim()
    assert list(driver.locked) == [used.data_ptr()]


def test_where_memory_cannot_be_locked_it_is_torch_s(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the error that CUDA keeps for the next call is taken by one of ours, not by a kernel of
    the script's."""
    taken: list[str] = []
    monkeypatch.setattr(pinned, "_take_last_error", lambda: taken.append("error"))
    asked: list[tuple[object, ...]] = []

    def by_torch(*sizes: int, pin_memory: bool = False, **more: object) -> torch.Tensor:
        asked.append((sizes, pin_memory))
        return torch.zeros(*sizes, **more)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch, "empty", by_torch)
    driver.answer = 2
    with caplog.at_level("DEBUG"):
        assert pinned.POOL.take(LARGE).numel() == LARGE
    assert (taken, asked) == (["error"], [((LARGE,), True)])
    assert f"{LARGE} bytes could not be page-locked (CUDA error 2)" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_lie_side_by_side_and_apart(driver: Driver, dtype: torch.dtype) -> None:
    """Of one capture in one block; each of its own shape, aligned, and written to alone."""
    originals = [torch.ones(shape, dtype=dtype) for shape in ((7, 3), (), (100,), (2, 1, 5))]
    with side_by_side(expected_bytes=1 << 16):
        copies = [pinned_like(tensor).copy_(tensor) for tensor in originals]
        copies[1].zero_()
    assert len(driver.locked) == 1
    for copy, original in zip(copies[2:], originals[2:], strict=True):
        assert torch.equal(copy, original)
        assert copy.data_ptr() % 256 == copies[0].data_ptr() % 256
        assert copy.is_contiguous()


def test_more_than_was_expected_has_room_too(driver: Driver) -> None:
    """And a tensor that is larger than a block has one of its own."""
    with side_by_side(expected_bytes=100):
        many = [pinned_like(torch.empty(1 << 18)) for _ in range(3)]
        large = pinned_like(torch.empty(1 << 20))
    assert len({tensor.data_ptr() for tensor in (*many, large)}) == 4
    assert sum(driver.locked.values()) < 9 << 20


def test_without_elements_nothing_is_locked(driver: Driver) -> None:
    """An empty buffer of a model."""
    assert pinned_like(torch.empty(0, 3)).shape == (0, 3)
    assert not driver.locked


def test_a_forked_child_does_not_get_it(driver: Driver) -> None:
    """A worker of a DataLoader would copy pages under the device's hands."""
    place = pinned.POOL.take(LARGE)
    address = f"{place.data_ptr():x}"
    flags, found = "", False
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            if "-" in line.split()[0] and not line[0].isupper():
                begin, end = (int(part, 16) for part in line.split()[0].split("-"))
                found = begin <= int(address, 16) < end
            elif found and line.startswith("VmFlags"):
                flags = line
    assert " dc " in flags, "dc: do not copy on fork"
