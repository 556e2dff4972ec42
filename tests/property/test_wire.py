"""The two languages: what is said is heard, and nothing else is."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossguard.agent import feed
from lossguard.agent.intake import MOST_RANKS, check
from lossguard.probes import wire

TEXT = st.text(max_size=30)
COUNT = st.integers(0, 2**53 - 1)
RANK = st.integers(0, MOST_RANKS - 1)
WORLD = st.integers(1, MOST_RANKS)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.dictionaries(TEXT, st.one_of(NUMBER, st.integers(-(2**53), 2**53), TEXT), max_size=4)
RUN = st.from_regex(r"(?!\.+\Z)[A-Za-z0-9._-]{1,120}", fullmatch=True)

FROM_PROBE = st.one_of(
    st.builds(
        wire.Hello, run=RUN, protocol=COUNT, name=TEXT, rank=RANK, world_size=WORLD, pid=COUNT,
        host=TEXT, started_s=NUMBER, policy=TEXT, script=st.lists(TEXT, max_size=3),
        versions=st.dictionaries(TEXT, TEXT, max_size=3),
    ),
    st.builds(
        wire.Layout, run=RUN, rank=RANK, layout=COUNT, names=st.lists(TEXT, max_size=5)
    ),
    st.builds(
        wire.Heartbeat, run=RUN, rank=RANK, step=COUNT, applied=COUNT, dropped=COUNT,
        time_s=NUMBER,
    ),
    st.builds(
        wire.Event, run=RUN, rank=RANK, step=COUNT, kind=TEXT, message=TEXT, data=NUMBERS
    ),
    st.builds(
        wire.Ack, run=RUN, rank=RANK, command=TEXT, status=st.sampled_from(["done", "failed"]),
        step=COUNT, result=NUMBERS,
    ),
    st.builds(
        wire.Bye, run=RUN, rank=RANK, step=COUNT, error=TEXT,
        reason=st.sampled_from(["finished", "exception", "closed", "stopped"]),
    ),
)  # fmt: skip
FROM_AGENT = st.one_of(
    st.builds(wire.Welcome, run=RUN, agent_pid=COUNT),
    st.builds(wire.Refused, run=RUN, why=TEXT),
    st.builds(wire.Resend, run=RUN),
    st.builds(wire.Limits, run=RUN, version=COUNT, loss=st.none() | st.floats(allow_nan=False)),
    st.builds(
        wire.Command, run=RUN, command=TEXT, step=COUNT, expires_step=COUNT, args=NUMBERS,
        action=st.sampled_from(get_args(wire.Action)),
    ),
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXT
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)  # fmt: skip
DECODERS = [
    wire.decode_from_probe,
    wire.decode_from_agent,
    feed.decode_from_agent,
    feed.decode_from_viewer,
]


@settings(max_examples=100, deadline=None)
@given(message=FROM_PROBE)
def test_what_a_probe_says_is_what_the_agent_hears(message: wire.FromProbe) -> None:
    """Encoded and decoded, nothing has changed, and the agent takes it."""
    heard = wire.decode_from_probe(wire.encode(message))
    assert heard == message
    check(heard, 1)


@settings(max_examples=100, deadline=None)
@given(message=FROM_AGENT)
def test_what_the_agent_says_is_what_a_probe_hears(message: wire.FromAgent) -> None:
    """Encoded and decoded, nothing has changed."""
    assert wire.decode_from_agent(wire.encode(message)) == message


@pytest.mark.parametrize("decode", DECODERS, ids=["probe", "agent", "feed", "viewer"])
@settings(max_examples=100, deadline=None)
@given(frame=st.binary(max_size=200) | ANYTHING.map(msgspec.msgpack.encode))
def test_other_bytes_raise_a_value_error_and_nothing_else(decode: Any, frame: bytes) -> None:
    """One kind of exception for everything that is no message."""
    assert issubclass(msgspec.DecodeError, ValueError)
    with pytest.raises(msgspec.DecodeError):
        decode(frame)


@settings(max_examples=100, deadline=None)
@given(message=FROM_PROBE, name=TEXT, value=ANYTHING)
def test_a_message_with_one_field_changed_is_taken_or_refused(
    message: wire.FromProbe, name: str, value: Any
) -> None:
    """Whatever is in a field, it is a message in bounds or a ValueError."""
    fields = msgspec.to_builtins(message)
    for field in (*fields, name):
        try:
            frame = msgspec.msgpack.encode(fields | {field: value})
            check(wire.decode_from_probe(frame), 1)
        except ValueError:
            pass


@settings(max_examples=30, deadline=None)
@given(frames=st.integers(0, 6), message=FROM_PROBE)
def test_every_message_has_its_number_of_frames(frames: int, message: wire.FromProbe) -> None:
    """Only a step has two."""
    if frames == 1:
        check(message, frames)
    else:
        with pytest.raises(ValueError, match="frames"):
            check(message, frames)
