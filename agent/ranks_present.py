"""The ranks of a run that are there now: who they are, how they are reached, what got lost."""

from __future__ import annotations

from collections.abc import Callable

from lossguard.agent.ranks import Rank
from lossguard.probes import wire


class RanksPresent:
    """``send(identity, message)`` hands a message to a rank; False when it cannot just now.

    Times are monotonic [s].
    """

    def __init__(self, hello: wire.Hello, send: Callable[[bytes, wire.Message], bool]) -> None:
        self.hello = hello
        """What the run said of itself: the newest word of rank 0, or of who came first."""
        self.by_number: dict[int, Rank] = {}
        self._send = send
        self._departed_dropped = 0
        self._is_restored = False
        """How far other ranks than the first had come is not kept."""

    @property
    def dropped(self) -> int:
        """Measurements that never arrived, of all ranks that are or were."""
        return self._departed_dropped + sum(rank.dropped for rank in self.by_number.values())

    def is_another_process(self, hello: wire.Hello) -> bool:
        """Whether this rank 0 is another process than the one before."""
        return hello.rank == self.hello.rank == 0 and _process(hello) != _process(self.hello)

    def begin_again(self) -> None:
        """The steps of all begin at the first again."""
        self._is_restored = False

    def greet(self, identity: bytes, hello: wire.Hello, now: float) -> None:
        """A rank says hello, for the first time or again."""
        known = self.by_number.get(hello.rank)
        if known is not None and known.is_same_process(hello):
            known.greet_again(identity, now)
        else:
            self.by_number[hello.rank] = Rank(
                identity, hello, now, is_known_from_start=not self._is_restored
            )
        if hello.rank == 0:
            self.hello = hello

    def leave(self, bye: wire.Bye) -> bool:
        """A rank ended in an orderly way; False where it was not there."""
        rank = self.by_number.pop(bye.rank, None)
        if rank is None:
            return False
        rank.part(bye.step)
        self._departed_dropped += rank.dropped
        return True

    def quiet_s(self, now: float) -> float:
        """Since the last sign of life of any. Raises ValueError where nobody is there."""
        return now - max(rank.heard_s for rank in self.by_number.values())

    def send(self, rank: int, message: wire.Message) -> bool:
        """To one; False when it cannot just now."""
        known = self.by_number.get(rank)
        return known is not None and self._send(known.identity, message)

    def send_all(self, message: wire.Message) -> None:
        """To each that can be reached just now."""
        for rank in self.by_number.values():
            self._send(rank.identity, message)

    # --- a restart of the agent -----------------------------------------------------------

    def state(self) -> dict[str, int]:
        """What cannot be asked again, as plain data."""
        first = self.by_number.get(self.hello.rank)
        return {"sequence": first.sequence if first else 0, "dropped": self.dropped}

    def restore(self, saved: dict[str, object]) -> None:
        """Take up ``state()`` of before the restart; nobody is there so far."""
        self._is_restored = True
        self._departed_dropped = _count(saved.get("dropped"))

    def expect(self, saved: dict[str, object], replayed: int, step: int, now: float) -> None:
        """The one that said hello last may still be there: at ``step``, of which so many came after
        ``state()``."""
        rank = self.by_number[self.hello.rank] = Rank(b"", self.hello, now)
        rank.sequence = _count(saved.get("sequence")) + replayed
        rank.step = step


def _process(hello: wire.Hello) -> tuple[str, int, float]:
    return hello.host, hello.pid, hello.started_s


def _count(saved: object) -> int:
    return saved if isinstance(saved, int) else 0
