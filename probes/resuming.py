"""Taking up a run in new processes, from the newest whole snapshot that is left on disk."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from lossguard.errors import LossguardError
from lossguard.probes import wire
from lossguard.probes.agreeing import Peers, peers_of
from lossguard.probes.data_position import is_data_position
from lossguard.probes.durable import Durable, DurableTier, read_snapshot
from lossguard.probes.durable_files import Damaged
from lossguard.probes.left_behind import Candidate, Left, candidates, left_behind
from lossguard.probes.rejoining import Rejoined
from lossguard.probes.training_state import TrainingState

log = logging.getLogger("lossguard")

_MOST_PREDECESSORS = 16


def resume(state: TrainingState, hello: wire.Hello, tier: DurableTier) -> int | None:
    """Become what the latest unfinished run of this name was; its step, or None.

    Only runs that did not end well have left anything: the others have removed theirs. With several
    ranks each has to call this; all take up the same, or none does, and where it was left by
    another number of ranks each puts its own parts together. Raises LossguardError where it broke
    off half way, or a rank did not come.
    """
    peers = peers_of(hello)
    if peers is None:
        log.warning("torch.distributed is not initialised for these ranks: nothing is taken up")
        return None
    parent = tier.folder.parent
    mine = msgspec.json.encode(left_behind(parent, hello)).decode()
    said = [msgspec.json.decode(words, type=list[Left]) for words in peers.exchange(mine)]
    for candidate in candidates(said):
        found, why = _read(state, parent, candidate, peers)
        answers = peers.exchange(why)
        if found is not None and not any(answers):
            return _take_up(state, tier, candidate, found, peers)
        for rank, answer in enumerate(answers):
            if answer and peers.rank in (0, rank):
                whose = "" if peers.size == 1 else f"rank {rank}: "
                log.error("what was left at step %d is passed over, and nothing was changed: %s%s",
                          candidate.step, whose, answer)  # fmt: skip
    return None


def _read(
    state: TrainingState, parent: Path, candidate: Candidate, peers: Peers
) -> tuple[Durable | None, str]:
    """What this rank would take up, or why it cannot."""
    folders = [parent / name for name in candidate.folders]
    as_before = len(folders) == peers.size
    try:
        if as_before:
            found = read_snapshot(folders[peers.rank], candidate.step)
        else:
            found = _put_together(state, folders, candidate.step)
        state.check(found.kept, random_generators=as_before)
    except Damaged as error:
        return None, f"a snapshot is damaged: {error}"
    except (ValueError, OSError) as error:
        return None, f"{folders[0]}: {error}"
    except Exception as error:  # a state of another make; the other ranks wait for an answer
        return None, f"{folders[0]}: {type(error).__name__}: {error}"
    return found, ""


def _put_together(state: TrainingState, folders: list[Path], step: int) -> Durable:
    """This rank's parts of what other ranks have left. Raises Damaged, ValueError."""
    first = read_snapshot(folders[0], step)
    places = _places(first, folders[0])
    # Where each rank is in its data, or in its random numbers, says nothing to other ranks.
    gone = [name for name, thing in state.extra.items() if is_data_position(thing)]
    extra = {name: kept for name, kept in first.kept["extra"].items() if name not in gone}
    kept = {part: kept for part, kept in first.kept.items() if part not in ("random", "places")}
    joined = Rejoined(kept | {"extra": extra}, places, state.place_wanted)
    joined.take(first.kept, places)
    for folder in folders[1:]:
        other = read_snapshot(folder, step)
        _require_replicas(state.parameter_names(), first.kept["model"], other.kept["model"], places)
        joined.take(other.kept, _places(other, folder))
    return first._replace(kept=joined.whole(), missing=(*first.missing, "random generators", *gone))


def _require_replicas(
    names: Iterable[str],
    first: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    places: Mapping[Any, Any],
) -> None:
    """Raises ValueError where ranks had a parameter each of their own, as experts on ranks are, and
    nothing says whose is to go where. Buffers may differ: each rank counts its own batches."""
    for name in names:
        cut = ("model", name) in places
        if not cut and name in first and not torch.equal(first[name], other.get(name, first[name])):
            raise ValueError(f"{name} was not the same on all ranks, and not one part of a whole")


def _places(found: Durable, folder: Path) -> Mapping[Any, Any]:
    places = found.kept.get("places", {})
    if isinstance(places, str):
        raise ValueError(f"{folder}: another number of ranks cannot take it up: {places}")
    return dict(places)


def _take_up(
    state: TrainingState, tier: DurableTier, candidate: Candidate, found: Durable, peers: Peers
) -> int:
    as_before = len(candidate.folders) == peers.size
    first = tier.folder.parent / candidate.folders[peers.rank if as_before else 0]
    try:
        state.restore(found.kept, random_generators=as_before)
        goes_on = (
            {name: why for name, why in state.replay(found.kept).items() if why}
            if as_before
            else {}
        )
        _catch_up(state, found.kept.get("follows", {}))
    except Exception as error:
        raise LossguardError(f"{first}: the state was taken up in part only: {error}") from error
    theirs = candidate.folders[peers.rank :: peers.size]
    before = found.about.get("predecessors", ()) if as_before else ()
    tier.go_on_from((*before, *theirs)[-_MOST_PREDECESSORS:], found.step)
    lacks = [*found.missing, *(f"{name}: {why}" for name, why in goes_on.items())]
    whose = "" if as_before else f", left by {len(candidate.folders)} ranks"
    log.warning("lossguard takes up the run in %s after step %d%s%s", first, found.step, whose,
                f"; not taken up: {'; '.join(lacks)}" if lacks else "")  # fmt: skip
    return found.step


def _catch_up(state: TrainingState, follows: Mapping[str, Any]) -> None:
    """Do what the script did after the update, which the new process will not do any more."""
    for scheduler, was_due in zip(state.schedulers, follows.get("schedulers", ()), strict=False):
        if was_due and not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step()
    for name in follows.get("averages", ()):
        if state.model is not None and hasattr(state.extra.get(name), "update_parameters"):
            state.extra[name].update_parameters(state.model)
