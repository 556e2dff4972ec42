"""Trainings that are cut over ranks: what is judged is what one process would have measured."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from lossguard.agent.placement import Placement
from lossguard.agent.ranks_joined import RanksJoined
from lossguard.agent.store import Store, StoredStep
from lossguard.detectors import Observation
from lossguard.home import Home, find_home
from lossguard.probes import wire
from tests.e2e.live import runs
from tests.e2e.ranks.jobs import environment, run_job
from tests.e2e.ranks.training import MAX_NORM, STEPS, Expected, Told
from tests.support.agents import AgentProcess, answering
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ON_TWO = ("ddp", "fsdp", "fsdp-clipping", "flat", "tensor", "sequence")
ON_FOUR = ("fsdp-tensor",)
WHOLE = tuple(mode for mode in (*ON_TWO, *ON_FOUR) if mode != "sequence")


class Trainings(NamedTuple):
    """What came of all of them."""

    out: Path
    home: Home

    def told(self, mode: str) -> list[Told]:
        """By rank."""
        paths = sorted(self.out.glob(f"{mode}.[0-9]"))
        return [msgspec.msgpack.decode(path.read_bytes(), type=Told) for path in paths]

    def expected(self, mode: str) -> Expected:
        """Of one process."""
        return msgspec.msgpack.decode((self.out / f"{mode}.expected").read_bytes(), type=Expected)


def trained(launcher: tuple[str, ...], *launches: str) -> Iterator[Trainings]:
    """All of them, once; whoever starts the ranks of a job tells them that they are of one."""
    root = Path(tempfile.mkdtemp(prefix="lg-", dir="/tmp"))
    patch = pytest.MonkeyPatch()
    patch.setenv("LOSSGUARD_HOME", str(root / "home"))
    home = find_home().create()
    try:
        with answering(AgentProcess(home)):
            run_job(
                *(*launcher, "-m", "tests.e2e.ranks.training", str(root), *launches),
                env=environment(root / "home", TORCHELASTIC_RUN_ID="ranks"),
                timeout_s=240,
            )
            yield Trainings(root, home)
    finally:
        patch.undo()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def trainings() -> Iterator[Trainings]:
    """On ranks that share what was imported."""
    yield from trained((), f"2:{','.join(ON_TWO)}", f"4:{','.join(ON_FOUR)}")


@pytest.fixture(scope="module")
def of_torchrun() -> Iterator[Trainings]:
    """On ranks that torchrun has started."""
    found = ("--master-port=0", "--rdzv-endpoint=localhost:0", "--rdzv-backend=c10d")
    yield from trained(
        ("-m", "torch.distributed.run", "--nproc-per-node=2", *found), "fsdp-clipping"
    )


def steps_of(home: Home, run: str) -> list[StoredStep]:
    """What the agent has written down."""
    with closing(Store(home.database_path)) as store:
        return list(store.steps_after(run, 0))


def judged(told: list[Told]) -> list[Observation]:
    """What the agent makes of the ranks' frames, the last rank's first: any order will do."""
    together = RanksJoined(len(told))
    found: list[Observation] = []
    for rank in reversed(range(len(told))):
        for i, frame in enumerate(told[rank].frames):
            layout = wire.Layout(
                run="r",
                rank=rank,
                layout=0,
                names=frame.names,
                holders=frame.holders,
                held_by=frame.held_by,
            )
            header = wire.Step(
                run="r",
                rank=rank,
                step=frame.step,
                applied=frame.step,
                layout=0,
                sequence=i + 1,
                time_s=0.0,
            )
            placement = Placement(layout)
            observation = placement.place(header, frame.values)
            found += together.take(rank, placement, observation, now=0.0)
    assert not together.is_waiting
    return found


def family(observation: Observation, kind: str) -> dict[str, float]:
    """By name; what is missing is left out."""
    found = observation.families[kind]
    there = zip(found.names, found.values.tolist(), found.missing.tolist(), strict=True)
    return {name: value for name, value, missing in there if not missing}


@pytest.mark.parametrize("mode", WHOLE)
def test_all_norms_are_those_of_a_single_process(trainings: Trainings, mode: str) -> None:
    """Of all, of each parameter, and of the weights: parts added once, replicas counted once."""
    expected = trainings.expected(mode)
    found = judged(trainings.told(mode))
    assert [o.values["grad_norm"] for o in found] == pytest.approx(expected.total, rel=2e-4)
    for observation, norms in zip(found, expected.grad_norm, strict=True):
        assert family(observation, "grad_norm") == pytest.approx(norms, rel=2e-3, abs=1e-6)
    sampled = family(found[15], "weight_norm")
    assert sampled == pytest.approx(expected.weight_norm[15], rel=1e-3, abs=1e-5)
    assert max(expected.total) > 1.5 * min(expected.total)


@pytest.mark.parametrize("mode", ON_TWO[1:])
def test_no_rank_alone_knows_them(trainings: Trainings, mode: str) -> None:
    """Else nothing would have been put together. With DDP each does."""
    expected = trainings.expected(mode).grad_norm[0]["up.weight"]
    for told in trainings.told(mode):
        frame = told.frames[0]
        values = dict(zip(frame.names, np.frombuffer(frame.values, "<f4").tolist(), strict=True))
        assert values["grad_norm/up.weight"] < 0.95 * expected
    assert all(told.frames[0].held_by == [] for told in trainings.told("ddp"))


@pytest.mark.parametrize("mode", WHOLE)
def test_the_agent_judges_the_norm_of_the_whole(trainings: Trainings, mode: str) -> None:
    """All the way: probes in every rank, sockets, the agent, its store; the last step too."""
    the_agent_knows_the_norm_of_the_whole(trainings, mode)


@pytest.mark.slow
def test_the_agent_judges_the_norm_of_all_ranks_of_torchrun(of_torchrun: Trainings) -> None:
    the_agent_knows_the_norm_of_the_whole(of_torchrun, "fsdp-clipping")


def the_agent_knows_the_norm_of_the_whole(trainings: Trainings, mode: str) -> None:
    """Of every step, once it has heard of the end."""
    known = {run.name: run for run in runs(trainings.home)}
    eventually(
        lambda: (
            known.update({r.name: r for r in runs(trainings.home)})
            or known[mode].state == "finished"
        )
    )
    norms = [step.metrics["grad_norm"] for step in steps_of(trainings.home, known[mode].run)]
    assert norms == pytest.approx(trainings.expected(mode).total, rel=2e-4)


@pytest.mark.parametrize("mode", [*ON_TWO, *ON_FOUR])
def test_watching_communicates_nothing_and_changes_no_bit(trainings: Trainings, mode: str) -> None:
    """As many collectives at every step, sampled ones too, and the same weights at the end."""
    for told in trainings.told(mode):
        assert told.collectives == told.collectives_unwatched
        assert told.weights == told.weights_unwatched
        assert any(told.collectives)


def test_a_gradient_that_is_still_to_be_summed_leaves_the_norm_of_all_unknown(
    trainings: Trainings,
) -> None:
    """What sequence parallel leaves to the optimizer is said once, and is no wrong number."""
    told = trainings.told("sequence")
    for observation, expected in zip(
        judged(told), trainings.expected("sequence").grad_norm, strict=True
    ):
        norms = family(observation, "grad_norm")
        assert "grad_norm" not in observation.values
        assert expected.keys() - norms.keys() == {"norm.weight", "norm.bias"}
        assert norms == pytest.approx({n: expected[n] for n in norms}, rel=2e-3, abs=1e-6)
    for rank in told:
        assert len(rank.log) == 1
        assert "summed over the ranks" in rank.log[0]


@pytest.mark.parametrize("mode", WHOLE)
def test_nothing_goes_wrong_and_the_loss_is_the_ranks_own(trainings: Trainings, mode: str) -> None:
    """No probe switches itself off; the micro-batches of a sharded model count, every one."""
    for told in trainings.told(mode):
        assert told.log == []
        losses = [
            dict(zip(f.names, np.frombuffer(f.values, "<f4").tolist(), strict=True))["loss"]
            for f in told.frames
        ]
        assert losses == pytest.approx(told.losses, rel=1e-5)
        assert len(losses) == STEPS


@pytest.mark.parametrize("mode", ["ddp", "fsdp-clipping", "flat"])
def test_how_often_was_clipped_is_known(trainings: Trainings, mode: str) -> None:
    """The bound stands next to the norm of the whole, before clipping."""
    found = judged(trainings.told(mode))
    assert [o.values["max_norm"] for o in found] == pytest.approx([MAX_NORM] * STEPS)
    clipped = [o.values["grad_norm"] > MAX_NORM for o in found]
    assert clipped == [total > MAX_NORM for total in trainings.expected(mode).total]
    assert any(clipped)
