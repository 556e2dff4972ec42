"""Loaders go on after a rollback, or go back with it where that is asked for and possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from lossguard.probes import wire
from lossguard.probes.data_position import capture_position, is_data_position, replay_from
from lossguard.probes.training_state import TrainingState
from tests.unit.probes.commanded import command
from tests.unit.probes.loops import Tiny, Watch, loop_of, loss_of, tokens

pytestmark = [
    pytest.mark.usefixtures("no_link"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]


class Stream:
    """An endless stream of numbers that knows where it is: a loader of a user's own."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            self.at += 1
            yield torch.tensor([self.at])

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def loader(workers: int = 0, **more: Any) -> Any:
    """torchdata's, which is not needed otherwise; twelve batches of two in an epoch."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    return stateful.StatefulDataLoader(
        TensorDataset(torch.arange(24)), batch_size=2, num_workers=workers, **more
    )


def forever(of: Any) -> Iterator[list[int]]:
    """The numbers of each batch, epoch after epoch, in one loop as a script has it."""
    while True:
        for batch in of:
            yield (batch[0] if isinstance(batch, (list, tuple)) else batch).tolist()


LOADERS: dict[str, Callable[[], Any]] = {
    "in order": loader,
    "shuffled": lambda: loader(shuffle=True),
    "shuffled by a generator": lambda: loader(
        shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
    "of a user": Stream,
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(("before", "after"), [(5, 3), (5, 9), (14, 13)])
def test_the_loop_that_is_under_way_gets_the_same_batches_again(
    kind: str, before: int, after: int
) -> None:
    """In the same epoch, over an epoch's end, and from the second epoch; twice as exact as once."""
    of = LOADERS[kind]()
    batches = forever(of)
    for _ in range(before):
        next(batches)
    kept = capture_position(of)
    first = [next(batches) for _ in range(after)]
    for _ in range(2):
        assert replay_from(of, kept) == ""
        again = [next(batches) for _ in range(after)]
        left = 12 - before % 12  # the next epoch's order is drawn anew
        same = after if kind in ("in order", "of a user") else min(after, left)
        assert again[:same] == first[:same]


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_of_a_new_process_goes_on_where_the_last_one_was(kind: str) -> None:
    of = LOADERS[kind]()
    batches = forever(of)
    for _ in range(5):
        next(batches)
    kept = capture_position(of)
    rest = [next(batches) for _ in range(5)]
    fresh = LOADERS[kind]()
    assert replay_from(fresh, kept) == ""
    again = forever(fresh)
    assert [next(again) for _ in range(5)] == rest


def test_replaying_draws_nothing_from_the_global_generator() -> None:
    of = loader(shuffle=True)
    batches = forever(of)
    next(batches)
    kept = capture_position(of)
    next(batches)
    before = torch.get_rng_state()
    replay_from(of, kept)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_that_nobody_iterates_is_not_asked_for_its_state() -> None:
    """torchdata would begin to iterate, and draw from the generator: numbers would change."""
    of = loader(shuffle=True)
    before = torch.get_rng_state()
    assert capture_position(of) is None
    assert of._iterator is None
    assert torch.equal(torch.get_rng_state(), before)
    assert "nobody was iterating" in replay_from(of, None)


def test_one_with_workers_cannot_be_taken_back_and_is_left_as_it_is() -> None:
    of = loader(workers=1)
    batches = forever(of)
    first = [next(batches) for _ in range(3)]
    kept = capture_position(of)
    assert "workers" in replay_from(of, kept)
    assert [*first, next(batches)] == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize(
    "thing",
    [torch.nn.ModuleList(), torch.nn.Linear(1, 1), {}, [], torch.ones(2), torch.Generator()],
)
def test_what_is_no_loader_is_not_taken_for_one(thing: Any) -> None:
    assert not is_data_position(thing)
    assert is_data_position(Stream())


class Streaming:
    """A guarded loop that draws its batches from a stream in ``extra``."""

    def __init__(self, watch: Watch) -> None:
        self.model = Tiny()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.stream = Stream()
        self.guard = watch(self.model, self.optimizer, policy="guard", extra={"train": self.stream})
        self.batches = iter(self.stream)

    def run(self, steps: int) -> list[tuple[int, float]]:
        """Each batch's number and its loss."""
        found = []
        for _ in range(steps):
            number = int(next(self.batches))
            self.optimizer.zero_grad()
            loss = loss_of(self.model, number)
            loss.backward()
            self.optimizer.step()
            found.append((number, float(loss.detach())))
        return found

    def roll_back(self, **args: Any) -> dict[str, Any]:
        """To the only snapshot; what is answered."""
        loop = loop_of(self.guard)
        loop._link.orders.append(command("c1", "rollback", onset=100, **args))
        self.run(1)
        answer = loop._outbox.words[-1]
        assert isinstance(answer, wire.Ack)
        return dict(answer.result)


def streaming(watch: Watch) -> tuple[Streaming, list[tuple[int, float]]]:
    """After a snapshot of step 5, and five more steps."""
    training = Streaming(watch)
    training.run(5)
    loop_of(training.guard)._acting._ring.clear()
    training.guard.snapshot()
    loop_of(training.guard)._acting._ring._next_step = 1000
    return training, training.run(5)


def test_data_flows_on_after_a_rollback_by_default(watch: Watch) -> None:
    training, _ = streaming(watch)
    answer = training.roll_back(random=1)
    assert answer == {"restored_step": 5, "exactness": "bitwise"}
    assert [number for number, _ in training.run(2)] == [12, 13]


def test_with_replay_the_same_batches_give_bitwise_the_same_losses(watch: Watch) -> None:
    training, first = streaming(watch)
    answer = training.roll_back(random=1, replay=1)
    assert answer == {"restored_step": 5, "exactness": "bitwise", "replayed": "train"}
    assert training.run(5) == first


def test_without_the_generators_the_order_is_exact_and_is_called_so(watch: Watch) -> None:
    training, _ = streaming(watch)
    assert training.roll_back(replay=1)["exactness"] == "order-exact"
    assert [number for number, _ in training.run(2)] == [6, 7]


def test_where_there_is_no_loader_the_answer_says_so(watch: Watch) -> None:
    training, _ = streaming(watch)
    loop_of(training.guard)._state.extra = {}
    for snapshot in loop_of(training.guard)._acting._ring._ring:
        snapshot.kept["extra"].clear()
    answer = training.roll_back(replay=1)
    assert answer["replayed"] == "nothing"
    assert "no loader" in answer["not_replayed"]


@pytest.mark.parametrize("part", ["schedulers", "model", "random"])
def test_a_snapshot_without_a_part_that_is_needed_is_refused_by_its_name(part: str) -> None:
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    state = TrainingState(model, [optimizer], [schedule])
    kept = state.capture()
    del kept[part]
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=f"the snapshot has no {part} part"):
        state.restore(kept, random_generators=True)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_part_that_this_run_does_not_need_may_be_missing() -> None:
    model = Tiny()
    state = TrainingState(model, [torch.optim.SGD(model.parameters(), lr=0.1)])
    kept = state.capture()
    del kept["schedulers"], kept["random"], kept["scaler"]
    tokens(0)
    state.restore(kept, random_generators=False)
