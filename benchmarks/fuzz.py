"""A million damaged inputs: each is taken or refused, and nothing grows.

    python -m benchmarks.fuzz                          # a million, a few minutes
    python -m benchmarks.fuzz --inputs 20000 --seed 7

Every target is what reads bytes of somebody else: the agent's intake of probes' messages, a
probe's of the agent's, the feed both ways, agent.toml, policy files, logs to backtest. Inputs are
good ones with bytes changed, cut out, repeated, or joined with those of another. Prints how many
were taken and refused, and the resident size; ends with 1 at the first exception that is not the
target's own refusal (with the input that did it), and where the process has grown.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import psutil

from lossguard.agent import feed
from lossguard.agent.logs import LogOptions, open_logs
from lossguard.agent.policy_file import load_policy
from lossguard.agent.registry import Registry
from lossguard.agent.settings import parse_settings
from lossguard.agent.store import Store
from lossguard.agent.viewers import Viewers
from lossguard.errors import LossguardError
from lossguard.probes import wire

_LOGS = Path(__file__).resolve().parents[1] / "tests" / "data" / "logs"
_MOST_GROWTH_MIB = 24.0
_MOST_BYTES = 4 << 30
_SAME_AGENT = 5000
"""Inputs until a new agent takes the place of one that holds many strange runs by then."""
_WORDS = (b"\x00", b"\xff", b"\xc0", b"\xcb\x7f\xf8", b"1e999", b"nan", b"[", b"{", b'"', b"../")

Take = Callable[[bytes], None]
"""Raises ValueError or LossguardError on what it refuses."""


@dataclass
class Tally:
    """What became of the inputs of one target."""

    taken: int = 0
    refused: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Damaged inputs, and what becomes of them.")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    # What asks for more than this is shown with its input, and not ended by the kernel.
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    print(f"seed {options.seed}, {options.inputs:,} inputs", flush=True)
    sys.exit(0 if fuzz(options.inputs, options.seed) else 1)


def fuzz(inputs: int, seed: int) -> bool:
    """Whether all went well."""
    dice = random.Random(seed)
    process = psutil.Process()
    fine = True
    with tempfile.TemporaryDirectory(prefix="lossguard-fuzz-") as folder:
        for name, share, seeds, take in targets(Path(folder)):
            tally = Tally()
            before = 0.0
            count = max(50, int(inputs * share))
            for number in range(count):
                case = mutated(dice, seeds)
                if not _try(name, take, case, tally):
                    return False
                if number == count // 5:  # what is loaded once is loaded by now
                    before = process.memory_info().rss / 2**20
            growth = process.memory_info().rss / 2**20 - before
            fine &= growth < _MOST_GROWTH_MIB
            print(f"{name:<22} {tally.taken:>9,} taken {tally.refused:>9,} refused "
                  f"{growth:+7.1f} MiB", flush=True)  # fmt: skip
    return fine


def _try(name: str, take: Take, case: bytes, tally: Tally) -> bool:
    try:
        take(case)
        tally.taken += 1
    except (ValueError, LossguardError):
        tally.refused += 1
    except BaseException as error:
        print(f"{name}: {type(error).__name__}: {error}\n  by {case!r}")
        return False
    return True


_ODD: tuple[object, ...] = (
    0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**64 - 1, 0.0, -0.0, 1e308, float("nan"), float("inf"),
    None, True, "", "x", "run-a", "../../etc/passwd", "x" * 3000, "\x00", [], [1, 2], [[]], {},
    {"a": 1}, {"": ""}, b"raw", ["loss"] * 300, {"k" * 600: "v" * 600},
)  # fmt: skip


def mutated(dice: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds, with one of its fields changed, or up to four changes of its bytes."""
    seed = dice.choice(seeds)
    if dice.random() < 0.6 and (changed := _other_field(dice, seed)) is not None:
        return changed
    data = bytearray(seed)
    for _ in range(dice.randrange(1, 5)):
        _change_bytes(dice, data, seeds)
    return bytes(data)


def _other_field(dice: random.Random, seed: bytes) -> bytes | None:
    """Still a message, of which one field holds something odd; None for what is no message."""
    if not 0x80 < seed[0] < 0x90:  # a small map of MessagePack
        return None
    frame, mark, rest = seed.partition(_SECOND)
    fields = msgspec.msgpack.decode(frame)
    field = dice.choice([*list(fields)[1:], "run", "rank", "new"])
    if dice.random() < 0.2:
        fields.pop(field, None)
    else:
        fields[field] = dice.choice(_ODD)
    return msgspec.msgpack.encode(fields) + mark + rest


def _change_bytes(dice: random.Random, data: bytearray, seeds: list[bytes]) -> None:
    at = dice.randrange(len(data) + 1)
    change = dice.randrange(6)
    if change == 0 and at < len(data):
        data[at] ^= 1 << dice.randrange(8)
    elif change == 1:
        data[at : at + dice.randrange(16)] = dice.randbytes(dice.randrange(8))
    elif change == 2:
        del data[at : at + dice.randrange(1, 64)]
    elif change == 3:
        data[at:at] = data[at : at + dice.randrange(1, 64)]
    elif change == 4:
        data[at:at] = dice.choice(_WORDS)
    else:
        other = dice.choice(seeds)
        data[at:] = other[dice.randrange(len(other) + 1) :]


# --- targets ------------------------------------------------------------------------------------


def targets(folder: Path) -> list[tuple[str, float, list[bytes], Take]]:
    """(name, share of the inputs, good inputs, what takes one)."""
    agent = _Agent(folder)
    return [
        ("agent <- probe", 0.35, _from_probe(), agent.hear_probe),
        ("probe <- agent", 0.20, _from_agent(), _taken(wire.decode_from_agent)),
        ("agent <- viewer", 0.20, _from_viewer(), agent.hear_viewer),
        ("viewer <- agent", 0.15, _to_viewer(), _taken(feed.decode_from_agent)),
        ("agent.toml", 0.04, _settings(), _read_settings),
        ("policy file", 0.04, _policies(), _Files(folder / "policy.toml", _load_policy).take),
        ("logs", 0.02, [p.read_bytes()[:4096] for p in _LOGS.iterdir() if p.suffix != ".md"],
         _Files(folder / "log", _read_log).take),
    ]  # fmt: skip


def _taken(decode: Callable[[bytes], object]) -> Take:
    def take(data: bytes) -> None:
        decode(data)

    return take


class _Agent:
    """Its intake, without sockets: another one now and then, on a disk of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._left = 0
        self._store: Store | None = None

    def _begin(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store.path.unlink()
        self._store = Store(self._folder / "fuzz.db")
        self._registry = Registry(self._store, lambda identity, frame: True)
        self._viewers = Viewers(self._registry, lambda identity, frame: True, lambda: None)
        self._left = _SAME_AGENT
        for frame in _from_probe()[:2]:
            self._registry.take(b"good", [frame])

    def hear_probe(self, data: bytes) -> None:
        """The part after the mark, where there is one, is the second frame."""
        self._tick()
        self._registry.take(b"evil", data.split(_SECOND, 1))

    def hear_viewer(self, data: bytes) -> None:
        self._tick()
        self._viewers.take(b"evil", [data])

    def _tick(self) -> None:
        if self._left == 0:
            self._begin()
        self._left -= 1
        if self._left % 100 == 0:
            now = time.monotonic()
            self._registry.tick(now)
            self._viewers.tick(now)
            if self._store is not None:
                self._store.tick()


_SECOND = b"<second frame>"


def _hello() -> wire.Hello:
    return wire.Hello(
        run="run-a", protocol=wire.PROTOCOL, name="fuzz", rank=0, world_size=1, pid=1, host="h",
        started_s=1.0, policy="guard", script=["t.py"], versions={"torch": "2"},
    )  # fmt: skip


def _from_probe() -> list[bytes]:
    step = wire.Step(run="run-a", rank=0, step=3, applied=3, layout=0, sequence=3, time_s=0.5)
    said: list[wire.Message] = [
        _hello(),
        wire.Layout(run="run-a", rank=0, layout=0, names=["loss", "grad_norm", "act_rms/a"]),
        wire.Heartbeat(run="run-a", rank=0, step=3, applied=3, dropped=0, time_s=1.0, at="a:1",
                       snapshots=[wire.Held(step=2, taken_s=0.5, bytes=9)]),
        wire.Event(run="run-a", rank=0, step=3, kind="zoom", message="m", data={"x": 1.5}),
        wire.Ack(run="run-a", rank=0, command="c", status="done", step=3, result={"a": 1}),
        wire.Bye(run="run-b", rank=0, step=3, reason="finished"),
    ]  # fmt: skip
    values = np.array([1.5, 2.5, 3.5], dtype="<f4").tobytes()
    return [*map(wire.encode, said), wire.encode(step) + _SECOND + values]


def _from_agent() -> list[bytes]:
    said: list[wire.Message] = [
        wire.Welcome(run="run-a", agent_pid=1),
        wire.Refused(run="run-a", why="no"),
        wire.Resend(run="run-a"),
        wire.Limits(run="run-a", version=3, grad_norm=2.0, loss=3.0, proven_step=16),
        wire.Command(run="run-a", command="c", action="rollback", expires_step=9, args={"o": 4}),
        wire.Keep(run="run-a", incident="run-a.1", steps=[3, 4]),
    ]
    return [wire.encode(message) for message in said]


def _from_viewer() -> list[bytes]:
    said: list[feed.FeedMessage] = [
        feed.Ping(),
        feed.ListRuns(),
        feed.ListIncidents(run="run-a"),
        feed.TellIncident(run="run-a", incident="run-a.1"),
        feed.Subscribe(run="run-a", metrics=("loss",), window=(0, 9), strips=("act_rms",)),
        feed.SendCommand(run="run-a", command="c", action="mute", args={"steps": 5}),
    ]
    return [feed.encode(message) for message in said]


def _to_viewer() -> list[bytes]:
    said: list[feed.FeedMessage] = [
        feed.Pong(agent_pid=1, version="1", troubles=["x"]),
        feed.CommandResult(command="c", status="done", step=3, result="r"),
        feed.Trouble(why="no"),
        feed.IncidentStory(incident="run-a.1", title="t", texts={"stacks.txt": "s"}),
    ]
    return [feed.encode(message) for message in said]


def _settings() -> list[bytes]:
    return [
        b'[retention]\nruns = 20\ndays = 3.5\nmax_mib = 64\n[listen]\ntcp = "tcp://127.0.0.1:7700"\n',
        b'[slack]\nchannel = "#a"\n[alerts]\nkeep_firing_s = 5\n',
    ]


def _read_settings(data: bytes) -> None:
    parse_settings(data.decode(), "agent.toml")


def _policies() -> list[bytes]:
    shipped = Path(__file__).resolve().parents[1] / "agent" / "policies"
    return [path.read_bytes() for path in sorted(shipped.glob("*.toml"))]


class _Files:
    """Hands inputs over as a file."""

    def __init__(self, path: Path, read: Callable[[Path], None]) -> None:
        self._path = path
        self._read = read

    def take(self, data: bytes) -> None:
        self._path.write_bytes(data)
        self._read(self._path)


def _load_policy(path: Path) -> None:
    load_policy(path)


def _read_log(path: Path) -> None:
    for log in open_logs("log", path, LogOptions()):
        for _ in log:
            pass
        log.account()


if __name__ == "__main__":
    main()
