"""A run that stops: stuck, stopped, or gone; said once when it begins, and when it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lossguard.agent.debugged import Debugged
from lossguard.agent.holding import Stand, holders, in_words
from lossguard.agent.intake import shortened
from lossguard.agent.process_table import ProcessState, ProcessTable
from lossguard.agent.standstill import NATIVE, Beat, HangBounds, Standstill, Still
from lossguard.detectors import Finding, Severity, Symptom
from lossguard.probes import wire

_LOOK_EVERY_S = 0.5
_OWN_GAP_S = 3.0
"""Nothing heard and nothing looked at for longer than this: it is we who stood still."""
_MISSING_S = 5.0
_STOPPED_S = 5.0
_GONE_S = 1.5
"""A goodbye may still be on its way."""
_METRIC = "heartbeat"
_GONE = ("gone", "zombie")
_WELL = "exit code 0"


@dataclass
class Watched:
    """One rank."""

    hello: wire.Hello
    table: ProcessTable
    standstill: Standstill
    state: ProcessState = "running"
    since_s: float = 0.0
    """When it was first seen in this state."""
    exit_told: bool = False

    def look(self, now: float) -> None:
        """Ask the process table."""
        state = self.table.state()
        if state == "running" and self.table.is_traced():
            state = "traced"
        if state != self.state:
            self.state, self.since_s = state, now

    def stand(self) -> Stand:
        """Where it is, or that it is not."""
        beat = self.standstill.last
        step, phase, at = (beat.step, beat.phase, beat.at) if beat else (0, "startup", "")
        if self.state in ("stopped", *_GONE):
            return Stand(step, "a stopped process" if self.state == "stopped" else "its grave", at)
        return Stand(step, phase or "an unknown place", at)


@dataclass
class Stops:
    """All ranks of a run. Times are monotonic [s]."""

    bounds: HangBounds = field(default_factory=HangBounds)
    ranks: dict[int, Watched] = field(default_factory=dict)
    _looked_s: float = 0.0
    _awake_s: float = 0.0
    _hang: Finding | None = None
    _hung_at: dict[int, tuple[int, int] | None] = field(default_factory=dict)
    """Of the ranks that stand still in this hang: the step, and how much they had done."""
    _debugged: Debugged = field(default_factory=Debugged)
    _words: list[str] = field(default_factory=list)

    def join(self, hello: wire.Hello, now: float) -> None:
        """A rank says hello; what was known of the process before it goes."""
        known = self.ranks.get(hello.rank)
        if known is not None:
            if _process(known.hello) == _process(hello):
                return
            known.table.close()
            self._hang = None  # it ended with that process
        table = ProcessTable(hello)
        self.ranks[hello.rank] = Watched(hello, table, Standstill(self.bounds), since_s=now)

    def hear(self, beat: wire.Heartbeat, now: float) -> None:
        """A heartbeat. One of a probe that does not say where it is counts its steps alone."""
        self._wake(now)
        if (watched := self.ranks.get(beat.rank)) is not None:
            phase, at = shortened(beat.phase, 40), shortened(beat.at, 300)
            watched.standstill.hear(Beat(now, beat.step, beat.moves, phase, at))

    def _wake(self, now: float) -> None:
        """What passed while we slept does not count, and is no news of anybody."""
        gap, self._awake_s = now - self._awake_s, now
        if gap > _OWN_GAP_S:
            for watched in self.ranks.values():
                watched.standstill.pardon(gap, now)

    def leave(self, rank: int) -> None:
        """It said goodbye."""
        if (watched := self.ranks.pop(rank, None)) is not None:
            watched.table.close()

    def close(self) -> None:
        """The run is over."""
        for rank in list(self.ranks):
            self.leave(rank)

    @property
    def are_all_gone(self) -> bool:
        """Whether no process is left. Only those on this host can be known to be gone."""
        return all(watched.table.state() in _GONE for watched in self.ranks.values())

    def look(self, now: float, step: int) -> list[Finding]:
        """What has stopped since the last look, or goes on again."""
        self._wake(now)
        if now - self._looked_s < _LOOK_EVERY_S:
            return []
        gap, self._looked_s = now - self._looked_s, now
        for watched in self.ranks.values():
            watched.look(now)
            if watched.state in ("stopped", "traced"):
                watched.standstill.pardon(gap, now)
            self._look_for_debugger(watched, now)
        return [*self._exits(now, step), *self._hangs(now, step)]

    def take_words(self) -> list[str]:
        """What is worth a line in the run's log, and no finding."""
        words, self._words = self._words, []
        return words

    def _look_for_debugger(self, watched: Watched, now: float) -> None:
        place = None
        beat = watched.standstill.last
        if watched.state == "traced":
            place = "held by a debugger"
        elif watched.state in ("running", "elsewhere") and beat and beat.phase == "debugger":
            place = f"in a debugger at {beat.at}"
        rank = watched.hello.rank
        if words := self._debugged.look(rank, self._named(rank), place, now):
            self._words.append(words)

    def _named(self, rank: int) -> str:
        return f"rank {rank}" if len(self.ranks) > 1 else "the process"

    def _exits(self, now: float, step: int) -> list[Finding]:
        found = []
        for rank, watched in self.ranks.items():
            gone = watched.state in _GONE and now - watched.since_s >= _GONE_S
            if gone and not watched.exit_told:
                watched.exit_told = True
                found.append(self._exit(rank, watched, step))
        return found

    def _exit(self, rank: int, watched: Watched, step: int) -> Finding:
        ended = watched.table.ended()
        how = ended.words or "gone without a word"
        if ended.for_memory:
            how = f"{how}: the kernel ran out of memory meanwhile"
        who = f"rank {rank}" if watched.hello.world_size > 1 else "the training process"
        stand = watched.standstill.last
        where = f"; last seen in {stand.phase} at {stand.at}" if stand and stand.at else ""
        memory = f", with {ended.rss_bytes / 1e9:.2f} GB of memory" if ended.rss_bytes else ""
        message = f"{who} (pid {watched.hello.pid}) is dead, {how}, at step {step}{memory}{where}"
        # Where it ended well, its goodbye may have been lost while we slept: nobody is to be woken.
        severity = Severity.INFO if ended.words == _WELL else Severity.CRITICAL
        at = stand.at if stand else ""
        return _finding(Symptom.PROCESS_EXIT, step, message, at, {}, severity)

    def _hangs(self, now: float, step: int) -> list[Finding]:
        stills = {
            rank: still
            for rank, watched in self.ranks.items()
            if watched.state in ("running", "elsewhere")
            and (still := watched.standstill.judge(now, _MISSING_S)) is not None
            and not (watched.state == "elsewhere" and still.phase == NATIVE)
        }
        stopped = [
            rank
            for rank, watched in self.ranks.items()
            if watched.state == "stopped" and now - watched.since_s >= _STOPPED_S
        ]
        if self._hang is not None:
            is_over = not stills and not stopped and self._is_anybody_left and self._has_moved
            return self._goes_on(step) if is_over else []
        self._hung_at = {rank: self._done_by(rank) for rank in stills}
        if stills:
            self._hang = self._stuck(stills, step)
        elif stopped:
            self._hang = self._halted(stopped, step)
        else:
            return []
        return [self._hang]

    @property
    def _is_anybody_left(self) -> bool:
        """A process that dies does not go on."""
        return any(watched.state not in _GONE for watched in self.ranks.values())

    @property
    def _has_moved(self) -> bool:
        """A process that somebody looks into, to read its stacks for example, does not count as
        still, and does not go on by that."""
        return not self._hung_at or any(
            self._done_by(rank) != before for rank, before in self._hung_at.items()
        )

    def _done_by(self, rank: int) -> tuple[int, int] | None:
        watched = self.ranks.get(rank)
        beat = watched.standstill.last if watched is not None else None
        return (beat.step, beat.moves) if beat is not None else None

    def _goes_on(self, step: int) -> list[Finding]:
        assert self._hang is not None
        ended = replace(self._hang, end_step=step, message=f"{self._hang.message}; it goes on")
        self._hang = None
        return [ended]

    def _stuck(self, stills: Mapping[int, Still], step: int) -> Finding:
        still = max(stills.values(), key=lambda still: still.lasted_s)
        stands = {rank: watched.stand() for rank, watched in self.ranks.items()}
        for rank, one in stills.items():
            if one.phase == NATIVE:
                stands[rank] = replace(stands[rank], phase="native code that holds the GIL")
        message = (
            f"no progress for {still.lasted_s:.0f} s, where {still.allowed_s:.0f} s may pass: "
            f"{in_words(stands)}"
        )
        held_by = holders(stands) or tuple(stills)
        evidence = {"lasted_s": still.lasted_s, "allowed_s": still.allowed_s}
        if len(self.ranks) > 1:
            evidence["rank"] = float(held_by[0])
        return _finding(Symptom.HANG, step, message, stands[held_by[0]].at, evidence)

    def _halted(self, stopped: list[int], step: int) -> Finding:
        pid = self.ranks[stopped[0]].hello.pid
        who = self._named(stopped[0])
        message = (
            f"{who} is stopped (SIGSTOP or Ctrl-Z), not hung; `kill -CONT {pid}` lets it go on"
        )
        return _finding(Symptom.HANG, step, message, "", {}, Severity.WARNING)


def failed(bye: wire.Bye, world_size: int) -> Finding | None:
    """What an orderly goodbye says of a bad end; None for a good one."""
    if bye.reason != "exception":
        return None
    who = f"rank {bye.rank}" if world_size > 1 else "the training"
    what = _error_line(bye.error) or "an exception, or an exit code other than 0"
    message = f"{who} failed at step {bye.step}: {shortened(what, 300)}"
    return _finding(Symptom.PROCESS_EXIT, bye.step, message, "", {})


def _error_line(traceback: str) -> str:
    """The line that names the error: the first after the frames, for its words may go on for many
    lines, as CUDA's do. Without frames the last; empty where there is nothing."""
    lines = traceback.strip().splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith("  File ")]
    after = lines[frames[-1] + 1 :] if frames else []
    named = [line for line in after if line and not line.startswith(" ")]
    return (named or lines[-1:] or [""])[0]


def _finding(
    symptom: Symptom,
    step: int,
    message: str,
    where: str,
    evidence: Mapping[str, float],
    severity: Severity = Severity.CRITICAL,
) -> Finding:
    return Finding(
        symptom=symptom,
        severity=severity,
        metric=_METRIC,
        onset_step=step,
        detected_step=step,
        score=evidence.get("lasted_s", 1.0) / evidence.get("allowed_s", 1.0),
        message=message,
        where=where,
        evidence=dict(evidence),
    )


def _process(hello: wire.Hello) -> tuple[str, int, float]:
    return hello.host, hello.pid, hello.started_s
