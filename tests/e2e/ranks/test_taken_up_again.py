"""A training on several ranks that dies goes on: on as many ranks, on more, or on fewer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.e2e.ranks.jobs import environment, run_job
from tests.e2e.ranks.lives import STEPS, WRITTEN, Lived

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SHARDED = ("fsdp:2:whole", "fsdp:2:dies", "fsdp:2:goes-on", "fsdp:4:goes-on", "fsdp:1:goes-on")
REPLICAS = ("ddp:2:whole", "ddp:2:dies", "ddp:2:goes-on", "ddp:4:goes-on")
TORN = ("ddp:2:dies", "ddp:1:torn", "ddp:2:goes-on")


def lived(lives: tuple[str, ...]) -> Iterator[dict[str, list[Lived]]]:
    """All of them, one after the other in one home; by rank."""
    root = Path(tempfile.mkdtemp(prefix="lg-", dir="/tmp"))
    try:
        run_job(
            *("-m", "tests.e2e.ranks.lives", str(root), *lives),
            env=environment(root / "home"),
            timeout_s=280,
        )
        yield {
            life: [
                msgspec.msgpack.decode((root / f"{life}.{rank}").read_bytes(), type=Lived)
                for rank in range(int(life.split(":")[1]))
            ]
            for life in lives
            if not life.endswith("torn")
        }
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def sharded() -> Iterator[dict[str, list[Lived]]]:
    """FSDP2."""
    yield from lived(SHARDED)


@pytest.fixture(scope="module")
def replicas() -> Iterator[dict[str, list[Lived]]]:
    """DDP."""
    yield from lived(REPLICAS)


@pytest.fixture(scope="module")
def torn() -> Iterator[dict[str, list[Lived]]]:
    """DDP, where one bit of what one rank has left is another."""
    yield from lived(TORN)


def wrote_what_had_proven_good(by_rank: list[Lived]) -> None:
    """The same step on every rank, without an order."""
    assert [one.on_disk for one in by_rank] == [[WRITTEN]] * len(by_rank)


def went_on_bitwise(whole: list[Lived], again: list[Lived]) -> None:
    """As the run that was never interrupted: losses, weights, moments, averages, rates."""
    for one, other in zip(again, whole, strict=True):
        assert one.begun == WRITTEN
        assert one.losses == other.losses[WRITTEN:]
        assert one.states == {s: other.states[s] for s in range(WRITTEN, STEPS + 1)}


def went_on_from_the_same_state(whole: list[Lived], again: list[Lived]) -> None:
    """To the last bit the same weights, moments, averages, rate; then the same losses but for the
    order in which they are added up. It says what is not as it was."""
    for one in again:
        assert one.begun == WRITTEN
        assert one.states[WRITTEN] == whole[0].states[WRITTEN]
        assert one.losses == pytest.approx(whole[0].losses[WRITTEN:], rel=1e-5)
        assert "not taken up: random generators" in one.log[0]


def test_ranks_write_what_has_proven_good_at_one_step(sharded: dict[str, list[Lived]]) -> None:
    wrote_what_had_proven_good(sharded["fsdp:2:dies"])


def test_as_many_ranks_go_on_to_the_last_bit(sharded: dict[str, list[Lived]]) -> None:
    went_on_bitwise(sharded["fsdp:2:whole"], sharded["fsdp:2:goes-on"])


@pytest.mark.parametrize("life", ["fsdp:4:goes-on", "fsdp:1:goes-on"])
def test_more_ranks_or_fewer_put_their_parts_together(
    sharded: dict[str, list[Lived]], life: str
) -> None:
    went_on_from_the_same_state(sharded["fsdp:2:whole"], sharded[life])


@pytest.mark.slow
def test_replicas_go_on_to_the_last_bit(replicas: dict[str, list[Lived]]) -> None:
    wrote_what_had_proven_good(replicas["ddp:2:dies"])
    went_on_bitwise(replicas["ddp:2:whole"], replicas["ddp:2:goes-on"])


@pytest.mark.slow
def test_more_replicas_go_on_from_the_same_state(replicas: dict[str, list[Lived]]) -> None:
    went_on_from_the_same_state(replicas["ddp:2:whole"], replicas["ddp:4:goes-on"])


@pytest.mark.slow
def test_what_one_rank_cannot_read_none_takes_up(torn: dict[str, list[Lived]]) -> None:
    """All begin anew, and each says why."""
    for one in torn["ddp:2:goes-on"]:
        assert one.begun is None
        assert len(one.losses) == STEPS
        assert any("rank 1: a snapshot is damaged" in line for line in one.log)
