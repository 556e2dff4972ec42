"""Whatever is in a file: observations, or an InputError."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lossguard.agent.logs import Log, LogOptions, open_logs
from lossguard.agent.logs.delimited import Table
from lossguard.agent.logs.json_document import JsonDocument
from lossguard.agent.logs.json_lines import JsonLines
from lossguard.agent.logs.names import Recogniser
from lossguard.agent.logs.source import Source
from lossguard.agent.logs.table_shape import Shape
from lossguard.agent.logs.text import PatternLog, TextLog
from lossguard.agent.logs.tfevents import EventFile, EventFiles
from lossguard.agent.logs.wandb_run import WandbRun
from lossguard.detectors import Observation
from lossguard.errors import InputError
from tests.support.binary_logs import VERSION, event, frame, history, pieces

SHAPES = [Shape(delimiter, 1, ("step", "loss", "val_loss")) for delimiter in ",;\t |"]
SOURCES: dict[str, Callable[[Path], Source]] = {
    "tall": lambda path: Table(path, Recogniser(), Shape(",", 1, ("step", "tag", "value"))),
    "json lines": lambda path: JsonLines(path, Recogniser()),
    "json document": lambda path: JsonDocument(path, Recogniser()),
    "text": lambda path: TextLog(path, Recogniser()),
    "pattern": lambda path: PatternLog(path, Recogniser(), r"(?P<step>\d+)\D+(?P<loss>\S+)"),
    "events": lambda path: EventFiles(path, Recogniser(), [EventFile(path)]),
    "wandb": lambda path: WandbRun(path, Recogniser()),
}


def table_reader(shape: Shape) -> Callable[[Path], Source]:
    """A reader of tables of this shape."""
    return lambda path: Table(path, Recogniser(), shape)


SOURCES |= {f"table {shape.delimiter!r}": table_reader(shape) for shape in SHAPES}
WHOLE = {
    "csv": b"step,loss,grad_norm/a,grad_norm/b\n" + b"".join(b"%d,2.5,1,2\n" % i for i in range(9)),
    "jsonl": b"".join(b'{"step": %d, "train": {"loss": 2.5}}\n' % i for i in range(9)),
    "state": json.dumps({"log_history": [{"step": i, "loss": 2.5} for i in range(9)]}).encode(),
    "text": b"".join(b"[12:00] step %d/9 loss: 2.5 | lr 1e-3\n" % i for i in range(9)),
    "events": VERSION + b"".join(frame(event(i, {"loss": 2.5, "lr": 1.0})) for i in range(9)),
    "wandb": b"".join(pieces(history({"_step": i, "a/loss": 1, "loss": 2.5}) for i in range(9))),
}

WORDS = st.sampled_from(
    [b"step", b"loss", b"val_loss", b",", b"\t", b";", b"\n", b"\r", b'"', b"{", b"}", b"[", b"]",
     b":", b" ", b"1", b"-1e400", b"nan", b"inf", b"1" * 5000, b"\0", b"\xff", b"grad_norm/a",
     b"tag", b"value", b"log_history", b"train/loss", b"epoch", b"/", b"#", b"null", b"\xc3"]
)  # fmt: skip
GARBAGE = st.one_of(
    st.binary(max_size=400), st.lists(WORDS, max_size=60).map(b"".join), st.text().map(str.encode)
)


def exhaust(log: Log) -> None:
    """Read everything, and say how it went."""
    refusal = ""
    try:
        for observation in log:
            assert isinstance(observation, Observation)
            assert isinstance(observation.step, int)
            assert all(isinstance(value, float) for value in observation.values.values())
            for family in observation.families.values():
                assert len(family.names) == len(family.values) == len(family.missing)
    except InputError as error:
        refusal = str(error)
    assert not refusal or refusal.startswith(log.name)
    account = log.account()
    assert account.recognised()
    assert all(account.remarks())
    assert account.troubles.count >= len(account.troubles.examples)


@pytest.mark.parametrize("kind", SOURCES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=GARBAGE)
@example(content=b"")
@example(content=b"[" * 100_000)
@example(content=b'{"loss":' * 5000)
@example(content=b"\0" * 5000)
@example(content=b'"\n' * 50)
def test_every_reader_survives_garbage(kind: str, content: bytes) -> None:
    """Also one that it is not meant for."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        exhaust(Log(file.name, SOURCES[kind](Path(file.name))))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=GARBAGE)
def test_garbage_is_recognised_as_something_or_refused(content: bytes) -> None:
    """With the name of the file in the message."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        refusal, logs = "", list[Log]()
        try:
            logs = open_logs(file.name, Path(file.name), LogOptions())
        except InputError as error:
            refusal = str(error)
        assert bool(logs) != (file.name in refusal)
        for log in logs:
            exhaust(log)


@pytest.mark.parametrize("kind", WHOLE)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_log_is_read_as_far_as_it_goes(kind: str, data: st.DataObject) -> None:
    """Bytes changed, cut out, put in, anywhere behind the beginning."""
    content = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        size = data.draw(st.integers(0, 20))
        content[at : at + size] = data.draw(st.binary(max_size=20))
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            logs = open_logs(file.name, Path(file.name), LogOptions())
        except InputError:
            return
        for log in logs:
            exhaust(log)


@pytest.mark.parametrize("kind", WHOLE)
def test_the_undamaged_log_is_read_whole(kind: str) -> None:
    """The healthy twin."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(WHOLE[kind])
        file.flush()
        (log,) = open_logs(file.name, Path(file.name), LogOptions())
        observations = list(log)
    assert [o.step for o in observations] == list(range(9))
    assert {o.values["loss"] for o in observations} == {2.5}
    assert log.account().troubles.count == 0
