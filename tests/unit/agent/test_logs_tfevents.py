"""TensorBoard's event files, whole and damaged."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest

from lossguard.agent.logs.crc32c import masked, masked_all
from lossguard.errors import InputError
from tests.support.binary_logs import (
    VERSION,
    event,
    frame,
    message,
    tensor_event,
    varint,
    write_events,
)
from tests.support.logs import open_all, points, read

NAME = "events.out.tfevents.1.host"


def frames(count: int) -> list[bytes]:
    """Events of as many steps."""
    return [frame(event(step, {"loss": 2.0 + step})) for step in range(count)]


def test_the_checksum_is_crc_32c() -> None:
    """The check value of the standard, and many at a time as one by one."""
    crc = 0xE3069283
    assert masked(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    pieces = [bytes([i, 255 - i, 7 * i % 256]) for i in range(200)]
    assert masked_all(pieces).tolist() == [masked(piece) for piece in pieces]


def test_scalars_of_one_step_are_one_observation(tmp_path: Path) -> None:
    """Though each has an event of its own."""
    rows: list[tuple[int, dict[str, float]]] = []
    for step in range(3):
        rows += [(step, {"train/loss": 2.5}), (step, {"train/grad_norm": 0.5, "mood": 1.0})]
    path = write_events(tmp_path / NAME, rows)
    (log,) = open_all(path)
    assert points(list(log)) == [(s, {"loss": 2.5, "grad_norm": 0.5}) for s in range(3)]
    assert log.source.format == "TensorBoard events"


FLOATS = [
    message(5, struct.pack("<f", 2.5)),
    b"\x2d" + struct.pack("<f", 2.5),
    message(4, struct.pack("<f", 2.5)),
]
DOUBLES = [message(6, struct.pack("<d", 2.5)), message(4, struct.pack("<d", 2.5))]


@pytest.mark.parametrize(
    "tensor",
    [b"\x08\x01" + value for value in FLOATS]
    + [b"\x08\x02" + value for value in DOUBLES]
    + [
        b"\x08\x0e" + message(4, struct.pack("<f", 2.5)[2:]),
        b"\x08\x0e" + message(13, varint(0x4020)),
        b"\x08\x13" + message(4, struct.pack("<e", 2.5)),
    ],
)
def test_tensors_of_one_number_are_scalars(tmp_path: Path, tensor: bytes) -> None:
    """Float, double, half and bfloat16, in the field of the type or as bytes."""
    _, rows = read(tmp_path, VERSION + frame(tensor_event(7, "loss", tensor)), NAME)
    assert points(rows) == [(7, {"loss": 2.5})]


def test_whole_numbers_are_scalars_too_and_arrays_are_not(tmp_path: Path) -> None:
    """An int64, negative as protobuf writes it; a histogram's tensor is passed over."""
    content = VERSION + b"".join(
        frame(tensor_event(1, tag, tensor))
        for tag, tensor in [
            ("loss", b"\x08\x09" + message(10, varint(-3))),
            ("lr", b"\x08\x01" + message(4, struct.pack("<2f", 1, 2))),
            ("grad_norm", b"\x08\x07" + message(8, b"text")),
        ]
    )
    _, rows = read(tmp_path, content, NAME)
    assert points(rows) == [(1, {"loss": -3.0})]


def test_a_file_that_is_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    """The writer died, or is still writing."""
    content = VERSION + b"".join(frames(10))
    log, rows = read(tmp_path, content[:-5], NAME)
    assert [row.step for row in rows] == list(range(9))
    assert log.account().troubles.examples == [(11, f"{NAME}: the file is cut off")]


def test_a_damaged_message_is_counted_and_left_out(tmp_path: Path) -> None:
    """Its checksum tells."""
    parts = frames(10)
    broken = bytearray(parts[4])
    broken[-6] ^= 1
    log, rows = read(tmp_path, VERSION + b"".join([*parts[:4], bytes(broken), *parts[5:]]), NAME)
    assert [row.step for row in rows] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert log.account().troubles.examples == [(6, f"{NAME}: the checksum is wrong")]


@pytest.mark.parametrize(
    "junk", [b"", b"\xff" * 1000, b"\0" * 5000, bytes(range(256)) * 9], ids=len
)
def test_after_damage_reading_goes_on_with_the_next_good_frame(tmp_path: Path, junk: bytes) -> None:
    """A length is destroyed, and there may be junk besides: said once."""
    parts = frames(10)
    broken = b"\x7f" + parts[4][1:] + junk
    log, rows = read(tmp_path, VERSION + b"".join([*parts[:4], broken, *parts[5:]]), NAME)
    assert [row.step for row in rows] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert log.account().troubles.examples == [(6, f"{NAME}: the framing is damaged")]


def test_zeros_at_the_end_are_said(tmp_path: Path) -> None:
    """What a file system leaves after a power cut."""
    log, rows = read(tmp_path, VERSION + b"".join(frames(5)) + b"\0" * (1 << 21), NAME)
    assert len(rows) == 5
    assert log.account().troubles.count == 1


def test_large_messages_are_passed_over(tmp_path: Path) -> None:
    """Graphs and pictures, larger than what is read at once."""
    picture = frame(message(5, message(1, message(1, b"loss") + message(4, bytes(3 << 20)))))
    parts = frames(4)
    log, rows = read(tmp_path, VERSION + b"".join([*parts[:2], picture, *parts[2:]]), NAME)
    assert [row.step for row in rows] == [0, 1, 2, 3]
    assert log.account().troubles.count == 0


def test_an_evaluation_with_its_own_count_of_steps_is_taken_where_it_was_written(
    tmp_path: Path,
) -> None:
    """``val/loss`` by epoch beside ``train/loss`` by step, and that is said."""
    rows = [(s, {"train/loss": 2.0}) for s in range(100, 200)]
    rows.insert(50, (1, {"val/loss": 3.0}))
    rows.append((2, {"val/loss": 2.5}))
    path = write_events(tmp_path / NAME, rows)
    (log,) = open_all(path)
    found = {o.step: o.values["val_loss"] for o in log if "val_loss" in o.values}
    assert found == {149: 3.0, 199: 2.5}
    assert any("2 evaluations with a step count of their own" in r for r in log.account().remarks())


def test_a_folder_of_event_files_is_one_run(tmp_path: Path) -> None:
    """A resumed training writes another file; the steps go back to the checkpoint."""
    write_events(tmp_path / "events.out.tfevents.1.a", [(s, {"loss": 2.0}) for s in range(100)])
    write_events(tmp_path / "events.out.tfevents.2.a", [(s, {"loss": 1.0}) for s in range(80, 120)])
    (log,) = open_all(tmp_path)
    steps = [observation.step for observation in log]
    assert steps == [*range(100), *range(80, 120)]
    assert any("the steps go back once" in remark for remark in log.account().remarks())


def test_the_halves_of_a_run_in_folders_of_their_own_are_joined(tmp_path: Path) -> None:
    """As ``add_scalars("Loss", {"train": ..., "val": ...})`` writes them."""
    for split, first in (("train", 2.0), ("val", 3.0)):
        folder = tmp_path / f"Loss_{split}"
        folder.mkdir()
        write_events(folder / NAME, [(s, {"Loss": first + s}) for s in range(3)])
    (log,) = open_all(tmp_path)
    assert points(list(log)) == [(s, {"loss": 2.0 + s, "val_loss": 3.0 + s}) for s in range(3)]


def test_runs_in_folders_of_their_own_are_several_logs(tmp_path: Path) -> None:
    """In the order of their names."""
    for run in ("b", "a"):
        (tmp_path / run).mkdir()
        write_events(tmp_path / run / NAME, [(1, {"loss": 2.0})])
    assert [log.name for log in open_all(tmp_path)] == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_events_without_metrics_are_refused(tmp_path: Path) -> None:
    """With the tags that there are."""
    path = write_events(tmp_path / NAME, [(1, {"mood": 1.0})])
    (log,) = open_all(path)
    with pytest.raises(InputError, match=r"none of the tags \(mood\)"):
        list(log)
    path.write_bytes(VERSION)
    with pytest.raises(InputError, match="there is no scalar in it"):
        list(log)


def test_a_large_file_streams_in_constant_memory(tmp_path: Path) -> None:
    """Events are handed on while the file is read."""
    block = b"".join(frames(1000))
    with (tmp_path / NAME).open("wb") as file:
        file.write(VERSION)
        for _ in range(100):
            file.write(block)
    (log,) = open_all(tmp_path / NAME)
    tracemalloc.start()
    count = sum(1 for _ in log)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 100_000
    assert peak < 16 << 20 < 100 * len(block) * 4
