"""The messages between a training process and the agent: the one file both sides share.

msgspec Structs in MessagePack, told apart by their tag; never pickle. Every ZeroMQ message
is one frame, except a step, which is two: a small ``Step`` header and one raw little-endian
float32 buffer with the values in the order of the last ``Layout``.

``step`` counts the times the loop reached ``optimizer.step()`` and never goes back;
``applied`` counts the updates that took effect, and a rollback turns it back.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

PROTOCOL = 1
"""Version of this file. A side that speaks another one is refused politely."""

MISSING_BITS = 0x7FC0A11E
"""The float32 bit pattern of "not measured at this step": a quiet NaN with a payload of its own,
so that a NaN that *was* measured stays a NaN."""

MAX_FRAME_BYTES = 1 << 20
"""No frame is larger (``ZMQ_MAXMSGSIZE``)."""

WHOLE = -1
"""A value is of the whole, not of the part that lies on the rank."""

OF_FAMILY = -2
"""A value is the norm of what lies on the rank, of whole and of cut tensors: for the norm of all,
the family of the same name has to be put together."""

Action = Literal[
    "skip", "rollback", "lower_lr", "reset_moments", "set_clip", "set_loss_scale",
    "checkpoint", "dump_stacks", "stop", "ack", "mute",
]  # fmt: skip

# What the ``skipped`` value of a step holds: a sum of these.
SKIP_NONFINITE = 1
SKIP_GRAD_NORM = 2
SKIP_LOSS = 4
SKIP_COMMAND = 8
SKIP_SCALER = 16
"""GradScaler itself dropped the update (an overflow): its normal life, not ours."""


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all messages; ``run`` is the run's id."""

    run: str


# --- from the probe -----------------------------------------------------------------------


class Hello(Message, tag="hello", frozen=True, kw_only=True):
    """The first message of a rank, and the answer to ``Resend``."""

    protocol: int
    name: str
    rank: int
    world_size: int
    pid: int
    host: str
    started_s: float
    """Wall clock [s since the epoch]."""
    policy: str
    """``observe`` or ``guard``: whether the probe obeys."""
    script: list[str]
    versions: dict[str, str]
    config: dict[str, str] = {}
    """How it trains: model, optimizer and its settings, what the environment says to torch."""
    policy_text: str = ""
    """The policy's settings as TOML, at most 64 KiB; empty for a policy the agent ships."""


class Layout(Message, tag="layout", frozen=True, kw_only=True):
    """The names of the values in a step's buffer, in order. Sent once, and when asked."""

    rank: int
    layout: int
    names: list[str]
    holders: list[list[int]] = []
    """Groups of ranks: what all of a group measure are norms of the parts of the same tensors."""
    held_by: list[int] = []
    """Of each value its group in ``holders``, or ``WHOLE``, or ``OF_FAMILY``. Empty: all whole."""


class Step(Message, tag="step", frozen=True, kw_only=True, gc=False):
    """Header of one step; the float32 buffer follows as the second frame."""

    rank: int
    step: int
    applied: int
    layout: int
    sequence: int
    """Counts the steps this rank measured, also those dropped on the way: gaps are losses."""
    time_s: float
    """Monotonic clock of the training host [s]."""


class Held(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A snapshot that a rank can go back to."""

    step: int
    taken_s: float
    """Monotonic clock of the training host [s]."""
    bytes: int
    on_disk: bool = False


MOST_HELD = 64
"""Of so many snapshots a heartbeat tells at most."""


class Heartbeat(Message, tag="beat", frozen=True, kw_only=True):
    """Once a second from the probe's own thread, whether or not the loop moves."""

    rank: int
    step: int
    applied: int
    dropped: int
    """Measurements dropped since the start, all reasons."""
    time_s: float
    moves: int = 0
    """Grows with whatever the loop does between two steps: a forward, a backward, a save."""
    phase: str = ""
    """Where its thread is: data, forward, backward, optimizer, eval, checkpoint, compile,
    collective, debugger, script."""
    at: str = ""
    """The line of the script that is being run, and the innermost one."""
    snapshots: list[Held] = []
    """What can be gone back to, oldest first; in memory before on disk."""


class Event(Message, tag="event", frozen=True, kw_only=True):
    """Something worth a line: a snapshot, a skip, a probe that switched itself off."""

    rank: int
    step: int
    kind: str
    message: str
    data: dict[str, float | int | str] = {}


class Ack(Message, tag="ack", frozen=True, kw_only=True):
    """The answer to a ``Command``: what came of it, or why not."""

    rank: int
    command: str
    status: Literal["done", "failed"]
    step: int
    result: dict[str, float | int | str] = {}


class Bye(Message, tag="bye", frozen=True, kw_only=True):
    """The last message of a rank that ends in an orderly way."""

    rank: int
    step: int
    reason: Literal["finished", "exception", "closed", "stopped"]
    error: str = ""


# --- from the agent -----------------------------------------------------------------------


class Welcome(Message, tag="welcome", frozen=True, kw_only=True):
    """The answer to ``Hello``, and to every heartbeat: the agent is there."""

    agent_pid: int
    protocol: int = PROTOCOL


class Refused(Message, tag="refused", frozen=True, kw_only=True):
    """The agent does not want this rank; says why. The probe stays silent from then on."""

    why: str
    ask_again: bool = False
    """It is the key that is not wanted, and there may be another one in its file later."""


class Resend(Message, tag="resend", frozen=True, kw_only=True):
    """The agent does not know this rank or its layout (it is new): say both again."""


class Limits(Message, tag="limits", frozen=True, kw_only=True):
    """Bounds that follow the run; the probe applies them in the very step, on the device."""

    version: int
    grad_norm: float | None = None
    loss: float | None = None
    proven_step: int = -1
    """The newest step that has proven good by what came after it; -1 is none."""
    holds_evaluated: bool = False
    """Hold the state that is evaluated: it is kept when it turns out to be the best."""


class Command(Message, tag="command", frozen=True, kw_only=True):
    """An order to the loop. Idempotent by ``command``; void after ``expires_step``."""

    command: str
    action: Action
    step: int = 0
    """Apply at the first step boundary at or after this one; 0 is the next."""
    expires_step: int
    args: dict[str, float | int | str] = {}
    number: int = 0
    """Grows with every command of a run: the order in which several ranks take them up."""


class Keep(Message, tag="keep", frozen=True, kw_only=True):
    """An incident is about these steps: put what is known of them into its folder."""

    incident: str
    steps: list[int]


FromProbe: TypeAlias = Hello | Layout | Step | Heartbeat | Event | Ack | Bye
FromAgent: TypeAlias = Welcome | Refused | Resend | Limits | Command | Keep

_encoder = msgspec.msgpack.Encoder()
_from_probe: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
    Hello | Layout | Step | Heartbeat | Event | Ack | Bye
)
_from_agent: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
    Welcome | Refused | Resend | Limits | Command | Keep
)


def encode(message: Message) -> bytes:
    """One frame of MessagePack."""
    return _encoder.encode(message)


def decode_from_probe(frame: bytes | memoryview) -> FromProbe:
    """Raises ``msgspec.DecodeError`` (a ``ValueError``) on anything but a probe's message."""
    message: FromProbe = _from_probe.decode(frame)
    return message


class _AnyHello(msgspec.Struct, frozen=True, tag="hello"):
    """What a hello of every version has."""

    run: str
    protocol: int


_any_hello = msgspec.msgpack.Decoder(_AnyHello)


def protocol_of(frame: bytes | memoryview) -> tuple[str, int] | None:
    """(run, protocol) of a hello of whatever version; None where it is none."""
    try:
        hello = _any_hello.decode(frame)
    except (ValueError, RecursionError):
        return None
    return hello.run, hello.protocol


def decode_from_agent(frame: bytes | memoryview) -> FromAgent:
    """Raises ``msgspec.DecodeError`` (a ``ValueError``) on anything but an agent's message."""
    message: FromAgent = _from_agent.decode(frame)
    return message
