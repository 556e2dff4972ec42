"""Taking up a run in a new process, from the newest whole snapshot that is left on disk."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from lossguard.errors import LossguardError
from lossguard.probes import wire
from lossguard.probes.durable import Durable, DurableTier, read_snapshot
from lossguard.probes.durable_files import Damaged, folder_of, read_manifest, steps_in
from lossguard.probes.training_state import TrainingState

log = logging.getLogger("lossguard")

_MOST_PREDECESSORS = 16


class _Run(NamedTuple):
    """What one run has left on disk."""

    written_s: float
    folder: Path
    about: Mapping[str, Any]


def resume(state: TrainingState, hello: wire.Hello, tier: DurableTier) -> int | None:
    """Become what the latest unfinished run of this name was; its step, or None.

    Only runs that did not end well have left anything: the others have removed theirs. One whose
    process is still there is none of them. Raises LossguardError where it broke off half way.
    """
    if hello.world_size > 1:
        log.warning("runs on several ranks are not taken up; this one begins anew")
        return None
    for run in sorted(_unfinished(tier.folder.parent, hello), reverse=True):
        for step in reversed(steps_in(run.folder)):
            try:
                found = read_snapshot(run.folder, step)
            except Damaged as error:
                log.warning("a snapshot on disk is damaged and is passed over: %s", error)
                continue
            return _take_up(state, tier, run.folder, found)
    return None


def _unfinished(parent: Path, hello: wire.Hello) -> Iterator[_Run]:
    for folder in parent.glob("*/"):
        for step in reversed(steps_in(folder)):
            try:
                about = read_manifest(folder_of(folder, step))["about"]
            except Damaged:
                continue
            same = (about.get("name"), about.get("rank"), about.get("world_size"))
            if same == (hello.name, hello.rank, hello.world_size) and not _is_at_work(about):
                yield _Run(float(about.get("written_s", 0.0)), folder, about)
            break


def _is_at_work(about: Mapping[str, Any]) -> bool:
    """Whether another process of this machine is still training it."""
    pid = about.get("pid")
    if not isinstance(pid, int) or pid == os.getpid() or about.get("host") != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(pid).create_time() <= about.get("started_s", 0) + 1)
    except psutil.Error:
        return False


def _take_up(state: TrainingState, tier: DurableTier, folder: Path, found: Durable) -> int | None:
    try:
        state.check(found.kept, random_generators=True)
    except ValueError as error:
        log.error("the run in %s is not taken up, and nothing was changed: %s", folder, error)
        return None
    try:
        state.restore(found.kept, random_generators=True)
        goes_on = {name: why for name, why in state.replay(found.kept).items() if why}
        _catch_up(state, found.kept.get("follows", {}))
    except Exception as error:
        raise LossguardError(f"{folder}: the state was taken up in part only: {error}") from error
    before = found.about.get("predecessors", ())
    tier.predecessors = (*before, folder.name)[-_MOST_PREDECESSORS:]
    tier.begun_at = found.step
    lacks = [*found.missing, *(f"{name}: {why}" for name, why in goes_on.items())]
    log.warning("lossguard takes up the run in %s after step %d%s", folder, tier.begun_at,
                f"; not taken up: {'; '.join(lacks)}" if lacks else "")  # fmt: skip
    return tier.begun_at


def _catch_up(state: TrainingState, follows: Mapping[str, Any]) -> None:
    """Do what the script did after the update, which the new process will not do any more."""
    for scheduler, was_due in zip(state.schedulers, follows.get("schedulers", ()), strict=False):
        if was_due and not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step()
    for name in follows.get("averages", ()):
        if state.model is not None and hasattr(state.extra.get(name), "update_parameters"):
            state.extra[name].update_parameters(state.model)
