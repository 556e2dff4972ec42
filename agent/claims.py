"""Which key speaks for which rank: while it does, no other may."""

from __future__ import annotations

import time

from lossguard.agent.live import LiveRun
from lossguard.agent.peers import Peer, Refused
from lossguard.probes import wire

_NEW_RUNS_PER_MINUTE = 60


class Claims:
    """A rank is whose it said hello as. That stands with the rank itself, so it lasts as long, and
    no flood of others pushes it out. Lost with the agent: then the first to say hello has it.

    A run that fell silent or is over may be taken up by another key, as after a move to another
    host.
    """

    def __init__(self) -> None:
        self._begun: dict[str, list[float]] = {}

    def allow(self, message: wire.FromProbe, peer: Peer, run: LiveRun | None) -> bool:
        """False from somebody who has to say hello first. Raises Refused where it is another's."""
        rank = run.ranks.get(message.rank) if run is not None else None
        whose = rank.account if rank is not None else ""
        if whose == peer.account:
            return True
        if whose and run is not None and run.state == "running":
            raise Refused(f"rank {message.rank} of run {message.run} speaks with another key")
        if not isinstance(message, wire.Hello):
            return not whose and peer.is_local
        if run is None and not peer.is_local:
            self._count_begun(peer.account)
        return True

    def _count_begun(self, account: str) -> None:
        now = time.monotonic()
        recent = [at for at in self._begun.get(account, []) if now - at < 60.0]
        if len(recent) >= _NEW_RUNS_PER_MINUTE:
            raise Refused(f"{account} has begun {_NEW_RUNS_PER_MINUTE} runs within a minute")
        self._begun[account] = [*recent, now]
