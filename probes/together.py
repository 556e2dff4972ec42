"""The ranks of one run act at the same step, or none does.

One vote a step, before the update takes effect. A peer that is missing ends it for good: from then
on nobody acts, and the run is observed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossguard.probes import vote_group, wire
from lossguard.probes.arbiter import Arbiter, Outcome
from lossguard.probes.ballot import Ballot, Wish

log = logging.getLogger("lossguard")

_formed: Counter[str] = Counter()
"""How many groups this process has made, by name of the run: a script may train twice."""

_ASTRAY = "the ranks are not at the same step of one run (LOSSGUARD_RUN gives them one name)"

_TO_DISK = "to-disk:"
"""With a step: what ranks vote for like for a command, and nobody has ordered. No command's id has
a colon in it."""

_ONLY_WRITE = ("checkpoint",)
"""Actions that may fail on one rank, and nothing comes of it but a file less."""


class _Held(NamedTuple):
    command: wire.Command
    says: Callable[[], str]


class Together:
    """Votes of this rank, and what came of them.

    ``why_not`` says why there is no vote, or no more; ``lost`` is told so, once, and must not
    raise. ``takes_snapshot`` says whether all ranks take one after this step. ``would_write`` is
    the step of the snapshot that this rank would write to disk, until it has voted for it.
    """

    def __init__(
        self, hello: wire.Hello, device: torch.device, lost: Callable[[str], None], why_not: str
    ) -> None:
        self._hello = hello
        self._device = device
        self._lost = lost
        self.why_not = why_not
        self.takes_snapshot = False
        self.would_write: int | None = None
        self._group: vote_group.Group | None = None
        self._ballot: Ballot | None = None
        self._arbiter: Arbiter | None = None
        self._number = 0
        self._held: dict[str, _Held] = {}
        self._published: set[str] = set()
        self._agreed = ""
        self._history = ""
        self._last: tuple[int, Tensor, Wish] | None = None

    def judge(
        self,
        step: int,
        code: Tensor | None,
        square: Tensor | None,
        bound: float | None,
        *,
        due: bool,
    ) -> Tensor | None:
        """The verdict of all ranks on this update; None where there is no vote.

        On the host it waits for the others, on a GPU for nothing, but where this rank has held a
        command, or wanted a snapshot, at the step before.
        """
        self._agreed, self.takes_snapshot = "", False
        if self.why_not:
            return None
        try:
            group, arbiter, ballot = self._open()
            if group.lag:
                self._look_back(group, arbiter, ballot)
            self._number += 1
            command = self._candidate(arbiter)
            if not (command or due or self.would_write is None):
                command, self.would_write = f"{_TO_DISK}{self.would_write}", None
            wants = due and not command and not self.takes_snapshot
            wish = Wish(command, wants, f"{self._hello.run} {step} {self._history}")
            votes = ballot.votes(code, square, bound, wish)
            if not group.lag:
                return self._settled(group, arbiter, ballot, votes, wish)
            group.add_up(votes)
            self._last = self._number, votes, wish
            return ballot.code(votes)
        except Exception as error:
            self._end(_words(error))
            return None

    def _open(self) -> tuple[vote_group.Group, Arbiter, Ballot]:
        if self._group is None or self._arbiter is None or self._ballot is None:
            import torch.distributed as dist

            hello = self._hello
            if not (dist.is_available() and dist.is_initialized()):
                raise vote_group.Unfit("torch.distributed is not initialised")
            if (dist.get_world_size(), dist.get_rank()) != (hello.world_size, hello.rank):
                raise vote_group.Unfit("the ranks are not those of the launcher")
            store: Any = dist.distributed_c10d._get_default_store()
            _formed[hello.name] += 1
            key = f"lossguard/{hello.name}/{_formed[hello.name]}"
            self._group = vote_group.form(store, key, hello.rank, hello.world_size, self._device)
            self._arbiter = Arbiter(store, key)
            self._ballot = Ballot(hello.world_size, self._device)
        return self._group, self._arbiter, self._ballot

    def _settled(
        self,
        group: vote_group.Group,
        arbiter: Arbiter,
        ballot: Ballot,
        votes: Tensor,
        wish: Wish,
    ) -> Tensor | None:
        """Add up on the host, and see to it that what comes of it counts for all."""
        try:
            group.add_up(votes)
            agreed = ballot.agreed(votes, wish)
            if not agreed.where:
                raise vote_group.Unfit(_ASTRAY)
        except Exception as error:
            # The others may have got through, and act: then so do we, this once.
            stands = arbiter.settle(self._number, None)
            self._end(_words(error))
            if stands is None:
                return None
        else:
            self.takes_snapshot = agreed.due
            code = ballot.code(votes)
            mine = Outcome(int(code), wish.command if agreed.command else "")
            if mine == Outcome():
                return code
            stands = arbiter.settle(self._number, mine)
            if stands is None:
                self._end("another rank did not hear the end of a vote")
                return None
        self._agreed = stands.command
        return torch.full((), float(stands.code), dtype=torch.float32, device=self._device)

    def _look_back(self, group: vote_group.Group, arbiter: Arbiter, ballot: Ballot) -> None:
        """On a GPU: the vote of the step before, where this rank wanted something by it."""
        if self._last is None:
            return
        (number, votes, wish), self._last = self._last, None
        if not (wish.command or wish.due):
            return
        agreed = ballot.agreed(votes, wish)
        if group.why_over:
            raise RuntimeError(group.why_over)
        if not agreed.where:
            raise vote_group.Unfit(_ASTRAY)
        self.takes_snapshot = agreed.due
        if agreed.command and arbiter.settle(number, Outcome(0, wish.command)) is not None:
            self._agreed = wish.command

    def _candidate(self, arbiter: Arbiter) -> str:
        """The command to vote for: the first in the agent's order of those this rank holds."""
        waiting = [held for name, held in self._held.items() if name != self._agreed]
        if not waiting:
            return ""
        command, says = min(waiting, key=lambda held: (held.command.number, held.command.command))
        name = command.command
        if name not in self._published and (words := says()):
            arbiter.publish(name, self._hello.rank, words)
        self._published.add(name)
        return name

    # --- commands -------------------------------------------------------------------------

    def hold(self, command: wire.Command, says: Callable[[], str]) -> None:
        """This rank has it, and obeys when all have. ``says`` is asked, just before the first vote
        for it, what the other ranks must know."""
        self._held.setdefault(command.command, _Held(command, says))

    def has_agreed_on(self, command: wire.Command) -> bool:
        """Whether all ranks carry it out after this step."""
        return bool(self._agreed) and command.command == self._agreed

    @property
    def writes(self) -> int | None:
        """The step of the snapshot that all ranks hold and write to disk now."""
        is_one = self._agreed.startswith(_TO_DISK)
        return int(self._agreed.removeprefix(_TO_DISK)) if is_one else None

    def told(self, command: str) -> list[str]:
        """What every rank said of a command that was agreed on, in their order."""
        assert self._arbiter is not None
        return self._arbiter.read(command, self._hello.world_size)

    def done(self, command: wire.Command, status: str) -> None:
        """Carried out, or failed. Where the ranks fared differently with what changes the training,
        the next vote is the last."""
        self.drop(command)
        self._agreed = ""
        self._history = f"{command.command} {'' if command.action in _ONLY_WRITE else status}"

    def drop(self, command: wire.Command) -> None:
        """It is not waited for any more. Idempotent."""
        self._held.pop(command.command, None)
        self._published.discard(command.command)

    # --- the end --------------------------------------------------------------------------

    def leave(self, why: str) -> None:
        """Vote no more; the others hear of it at once. Idempotent, and never raises."""
        self.why_not = self.why_not or why
        group, self._group = self._group, None
        self._held.clear()
        try:
            if group is not None:
                group.close()
        except Exception as error:
            log.debug("the vote group did not close: %s", error)

    def _end(self, why: str) -> None:
        self.leave(f"no vote among the ranks: {why}")
        self._lost(self.why_not)


def _words(error: Exception) -> str:
    if isinstance(error, vote_group.Unfit):
        return str(error)
    return f"a rank is missing ({' '.join(str(error).split())[:120] or type(error).__name__})"
