"""Waiting for data, for a checkpoint, and what the machine says once a second."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lossguard.probes import machine as machine_module
from lossguard.probes.guard import Guard
from lossguard.probes.machine import Machine
from lossguard.probes.waiting import DataWait
from tests.unit.probes.loops import Records, Watch, loop_of

pytestmark = pytest.mark.usefixtures("no_link")


class Clock:
    """A time that passes only where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for name in ("time", "perf_counter", "monotonic"):
            monkeypatch.setattr(time, name, lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In the place of the machine's."""
    return Clock(monkeypatch)


class Slow(Dataset[Tensor]):
    """Each item takes a second of the clock."""

    def __init__(self, clock: Clock, length: int = 4) -> None:
        self.clock = clock
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        self.clock.now += 1.0
        return torch.ones(3)


@pytest.fixture
def watched(watch: Watch) -> tuple[nn.Module, torch.optim.Optimizer, Records, Guard]:
    """A model, its optimizer, and the records of its watch."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = watch(model, optimizer)
    return model, optimizer, Records(guard), guard


def update(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    """One step."""
    optimizer.zero_grad()
    model(x).sum().backward()
    optimizer.step()


def test_the_wait_of_each_step_is_measured(watched: Any, clock: Clock) -> None:
    """Two items a batch are two seconds; computing is not waiting."""
    model, optimizer, records, _ = watched
    for x in DataLoader(Slow(clock), batch_size=2):
        clock.now += 10.0
        update(model, optimizer, x)
    assert records.of("data_wait") == [2.0, 2.0]


def test_micro_batches_add_up(watched: Any, clock: Clock) -> None:
    """Of one step."""
    model, optimizer, records, _ = watched
    for i, x in enumerate(DataLoader(Slow(clock))):
        model(x).sum().backward()
        if i % 2:
            optimizer.step()
    assert records.of("data_wait") == [2.0, 2.0]


def test_without_a_loader_there_is_no_wait(watched: Any) -> None:
    """Not even of zero seconds."""
    model, optimizer, records, _ = watched
    update(model, optimizer, torch.ones(2, 3))
    assert records.of("data_wait") == [None]


@pytest.mark.parametrize("around", [True, False])
def test_waits_of_an_evaluation_do_not_count(watched: Any, clock: Clock, around: bool) -> None:
    """Whether the loop is inside of ``no_grad`` or only the model is."""
    model, optimizer, records, _ = watched
    batches = iter(DataLoader(Slow(clock, 2)))
    update(model, optimizer, next(batches))
    model.eval()
    with torch.set_grad_enabled(not around):
        for x in DataLoader(Slow(clock, 30)):
            with torch.no_grad():
                model(x)
    model.train()
    update(model, optimizer, next(batches))
    assert records.of("data_wait") == [1.0, 1.0]


def test_a_batch_fetched_ahead_belongs_to_the_step_that_uses_it(watched: Any, clock: Clock) -> None:
    """Between forward and step."""
    model, optimizer, records, _ = watched
    batches = iter(DataLoader(Slow(clock, 3)))
    x = next(batches)
    for _ in range(2):
        model(x).sum().backward()
        clock.now += 0.5
        x = next(batches)
        optimizer.step()
    assert records.of("data_wait") == [1.0, 1.0]


def test_where_no_forward_is_heard_every_wait_counts() -> None:
    """A model compiled in place."""
    waits = DataWait()
    waits.add(1.0)
    waits.add(2.0)
    assert waits.take() == 3.0
    assert waits.take() is None


def test_another_threads_loader_is_not_ours(watched: Any, clock: Clock) -> None:
    """Say one that prefetches."""
    import threading

    model, optimizer, records, _ = watched
    thread = threading.Thread(target=lambda: list(DataLoader(Slow(clock))))
    thread.start()
    thread.join()
    update(model, optimizer, torch.ones(2, 3))
    assert records.of("data_wait") == [None]


def test_a_loader_that_fails_fails_as_ever(watched: Any, clock: Clock) -> None:
    """With its own exception, and its time counts."""
    model, optimizer, records, _ = watched

    class Broken(Slow):
        def __getitem__(self, index: int) -> Tensor:
            clock.now += 1.0
            raise KeyError("no such sample")

    with pytest.raises(KeyError, match="no such sample"):
        next(iter(DataLoader(Broken(clock))))
    update(model, optimizer, torch.ones(2, 3))
    assert records.of("data_wait") == [1.0]


# --- checkpoints ------------------------------------------------------------------------------


def test_the_age_of_the_last_checkpoint_is_there_at_every_step(
    watch: Watch, clock: Clock, tmp_path: Path
) -> None:
    """Since the run began, then since the last that was written."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    for step in range(4):
        clock.now += 10.0
        if step == 2:
            torch.save(model.state_dict(), tmp_path / "model.pt")
            clock.now += 1.0
        if step == 3:
            with pytest.raises(RuntimeError):
                torch.save(model.state_dict(), tmp_path / "no" / "folder.pt")
        update(model, optimizer, torch.ones(2, 3))
    assert records.of("checkpoint_age") == [10.0, 20.0, 1.0, 11.0]


# --- clipping ---------------------------------------------------------------------------------


def clipped(watched: Any, clip: Any) -> dict[str, float]:
    """A step with this clipping."""
    model, optimizer, records, _ = watched
    optimizer.zero_grad()
    model(torch.ones(2, 3)).sum().backward()
    clip(model)
    optimizer.step()
    return dict(records.steps[-1])


ON_DEVICE: Any = torch.ones(())
CLIPS: dict[str, tuple[Any, float | None]] = {
    "norm": (lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.5), 0.5),
    "keyword": (lambda m: nn.utils.clip_grad_norm_(parameters=m.parameters(), max_norm=2), 2.0),
    "in two steps": (
        lambda m: nn.utils.clip_grads_with_norm_(
            m.parameters(), max_norm=3.0,
            total_norm=nn.utils.get_total_norm([p.grad for p in m.parameters()]),
        ),
        3.0,
    ),
    "not at all": (lambda m: None, None),
    "to measure only": (lambda m: nn.utils.clip_grad_norm_(m.parameters(), float("inf")), None),
    "another norm": (
        lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.5, norm_type=float("inf")), None,
    ),
    "values": (lambda m: nn.utils.clip_grad_value_(m.parameters(), clip_value=0.5), None),
    "a part": (lambda m: nn.utils.clip_grad_norm_([m.weight], 0.5), None),
    "another model": (lambda m: nn.utils.clip_grad_norm_([nn.Parameter(torch.ones(2))], 0.5), None),
    "on the device": (lambda m: nn.utils.clip_grad_norm_(m.parameters(), ON_DEVICE), None),
}  # fmt: skip


@pytest.mark.parametrize("what", CLIPS)
def test_the_bound_of_the_clipping_is_reported(watched: Any, what: str) -> None:
    """Where it bounds the L2 norm of all gradients, by a number of the host; for that step."""
    clip, bound = CLIPS[what]
    assert clipped(watched, clip).get("max_norm") == bound
    assert "max_norm" not in clipped(watched, lambda m: None)
    assert clipped(watched, CLIPS["norm"][0])["max_norm"] == 0.5


# --- the machine ------------------------------------------------------------------------------


def test_memory_is_looked_at_once_a_second_and_told_once(watched: Any, clock: Clock) -> None:
    """It travels with the step after."""
    model, optimizer, records, guard = watched
    loop = loop_of(guard)
    seen = []
    for later_s in (0.0, 0.5, 0.6, 0.1):
        clock.now += later_s
        loop._machine.look()
        update(model, optimizer, torch.ones(2, 3))
        seen.append(records.of("rss")[-1] is not None)
    assert seen == [True, False, True, False]
    rss = records.of("rss")[0]
    assert rss is not None
    assert rss == pytest.approx(psutil.Process().memory_info().rss, rel=0.5)
    assert "memory_allocated" not in records.steps[0], "there is no such device"


class Cuda:
    """Stands for torch.cuda."""

    initialized = True
    nvml = True

    def get_device_properties(self, device: Any) -> Any:
        """Eighty billion bytes."""
        return type("Properties", (), {"total_memory": 80e9})

    def is_initialized(self) -> bool:
        """As the test says."""
        return self.initialized

    def memory_allocated(self, device: Any) -> int:
        """In use."""
        return 30_000_000_000

    def memory_reserved(self, device: Any) -> int:
        """Held."""
        return 40_000_000_000

    def _nvml(self, number: int) -> int:
        if not self.nvml:
            raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")
        return number

    def utilization(self, device: Any) -> int:
        """Per cent."""
        return self._nvml(87)

    def temperature(self, device: Any) -> int:
        """Degrees Celsius."""
        return self._nvml(61)

    def power_draw(self, device: Any) -> int:
        """Milliwatts."""
        return self._nvml(350_000)

    def memory_stats_as_nested_dict(self, device: Any) -> dict[str, Any]:
        """As the allocator counts."""
        return {
            "inactive_split_bytes": {"all": {"current": 2_000_000_000}}, "num_alloc_retries": 3,
        }  # fmt: skip


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """In the place of torch's, for the machine alone."""
    fake = Cuda()
    torch_like = type("Torch", (), {"cuda": fake, "device": torch.device})
    monkeypatch.setattr(machine_module, "torch", torch_like)
    return fake


def test_a_gpu_has_eight_more(cuda: Cuda) -> None:
    """In bytes, degrees Celsius and watts, and as a share."""
    machine = Machine(torch.device("cuda"))
    machine.look()
    found = machine.take()
    assert found.pop("rss") > 0
    assert found == {
        "memory_allocated": 3e10, "memory_reserved": 4e10, "memory_total": 8e10,
        "gpu_utilization": 0.87, "gpu_temperature": 61.0, "gpu_power": 350.0,
        "memory_fragmented": 2e9, "allocator_retries": 3.0,
    }  # fmt: skip
    assert machine.take() == {}


def test_without_nvml_memory_is_all_there_is(cuda: Cuda, clock: Clock) -> None:
    """It is asked once, and the rest goes on."""
    cuda.nvml = False
    machine = Machine(torch.device("cuda"))
    for _ in range(2):
        machine.look()
        assert set(machine.take()) == {
            "rss", "memory_allocated", "memory_reserved", "memory_total", "memory_fragmented",
            "allocator_retries",
        }  # fmt: skip
        cuda.nvml = True
        clock.now += 2.0


def test_cuda_is_not_initialised_by_looking(cuda: Cuda) -> None:
    """A script may have good reasons to wait."""
    cuda.initialized = False
    machine = Machine(torch.device("cuda"))
    machine.look()
    assert set(machine.take()) == {"rss"}


def test_a_look_that_fails_is_the_last(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """One line; the thread that looks lives on."""
    machine = Machine(torch.device("cpu"))
    monkeypatch.setattr(machine, "_process", None)
    for _ in range(3):
        machine.look()
        clock.now += 2.0
    assert machine.take() == {}
    assert [r.getMessage().split(" (")[0] for r in caplog.records] == ["the machine probe failed"]
