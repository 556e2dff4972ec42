"""What is behind an argument, and what kind of log a file is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lossguard.agent.logs import find_places
from lossguard.errors import InputError
from tests.support.binary_logs import write_events, write_wandb
from tests.support.logs import open_all, points, read

TABLE = "step,loss\n1,2.5\n2,2.25\n"
STATE = json.dumps({"log_history": [{"step": 1, "loss": 2.5}]})


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (TABLE, "CSV"),
        ("step loss\n1 2.5\n", "columns"),
        ('{"step": 1, "loss": 2.5}\n', "JSON lines"),
        ('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.5}', "JSON lines"),
        (f'{{"step": 1, "loss": 2.5, "x": "{"y" * 100_000}"}}\n{{"step": 2}}', "JSON lines"),
        ('[{"step": 1, "loss": 2.5}]', "JSON document"),
        (STATE, "Hugging Face trainer state"),
        ("[12:00] step 1 loss 2.5\n", "text log"),
        ("step 1 loss 2.5\n", "text log"),
        ("step: 1, loss: 2.5, lr: 0.1\nstep: 2, loss: 2.25, lr: 0.1\n", "text log"),
    ],
)
@pytest.mark.parametrize("name", ["log", "log.txt", "log.jsonl"])
def test_the_content_tells_the_format(tmp_path: Path, content: str, kind: str, name: str) -> None:
    """Whatever the file is called."""
    log, rows = read(tmp_path, content, name)
    assert log.source.format == kind
    assert points(rows)[0][1]["loss"] == 2.5


def test_binary_formats_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    """Whatever the file is called."""
    events = write_events(tmp_path / "a.csv", [(1, {"loss": 2.5})])
    run = write_wandb(tmp_path / "b.csv", [{"_step": 1, "loss": 2.5}])
    assert [open_all(path)[0].source.format for path in (events, run)] == [
        "TensorBoard events", "Weights & Biases run"
    ]  # fmt: skip


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
def test_compressed_files_are_read_as_they_are(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    """The suffix does not matter."""
    _, rows = read(tmp_path, compress(TABLE.encode()), "log")
    assert points(rows) == [(1, {"loss": 2.5}), (2, {"loss": 2.25})]


def test_a_compressed_file_that_is_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    """And that is said."""
    text = "step,loss\n" + "".join(f"{i},{2.5 + i % 7 / 100}\n" for i in range(20_000))
    content = gzip.compress(text.encode())
    log, rows = read(tmp_path, content[: len(content) // 2])
    assert 1000 < len(rows) < 20_000
    assert [o.step for o in rows] == list(range(len(rows)))
    assert log.account().troubles.examples[-1][1] == "the compressed file is cut off"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"SQLite format 3\0" + bytes(100), "SQLite database"),
        (b"PAR1" + bytes(100), "Parquet"),
        (b"PK\x03\x04" + bytes(100), "PyTorch checkpoint"),
        (b"\x80\x02}q\x00", "pickle, which could run code"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "zstd -d"),
        (b"\x00\x01\xff\xfe" * 100, "binary file of no kind that is known"),
        (gzip.compress(b"", mtime=0), "empty"),
    ],
)
def test_other_files_are_refused_with_what_they_are(
    tmp_path: Path, content: bytes, why: str
) -> None:
    """And with what to do, where there is something."""
    with pytest.raises(InputError, match=why):
        read(tmp_path, content)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """So is a pattern that fits nothing, and an empty folder."""
    with pytest.raises(InputError, match="cannot be read"):
        open_all(tmp_path / "missing.csv")
    with pytest.raises(InputError, match="no file has such a name"):
        find_places(str(tmp_path / "*.csv"))
    with pytest.raises(InputError, match="no log in this folder"):
        find_places(str(tmp_path))


def test_a_pattern_stands_for_the_files_in_order(tmp_path: Path) -> None:
    """Also into folders."""
    for name in ("b.csv", "a.csv", "sub/c.csv", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(TABLE)
    names = [place.path.name for place in find_places(str(tmp_path / "**" / "*.csv"))]
    assert names == ["a.csv", "b.csv", "c.csv"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "lr[0.1].csv"
    path.write_text(TABLE)
    assert [place.path for place in find_places(str(path))] == [path]


def test_a_folder_stands_for_every_log_in_it(tmp_path: Path) -> None:
    """In order; hidden or other files are left alone."""
    for name in ("version_1/metrics.csv", "version_0/metrics.csv", "a.jsonl", "b.tsv.gz", "x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(TABLE)
    write_wandb(tmp_path / "run-a.wandb", [{"_step": 1, "loss": 2.5}])
    (tmp_path / "tb").mkdir()
    write_events(tmp_path / "tb" / "events.out.tfevents.1.a", [(1, {"loss": 2.5})])
    places = find_places(str(tmp_path))
    assert [str(place.path.relative_to(tmp_path)) for place in places] == [
        "a.jsonl", "b.tsv.gz", "run-a.wandb", "tb", "version_0/metrics.csv",
        "version_1/metrics.csv",
    ]  # fmt: skip
    assert {place.folder for place in places} == {str(tmp_path)}


def test_of_the_checkpoints_of_a_run_the_last_has_it_all(tmp_path: Path) -> None:
    """By number, not by name; the event files beside them say the same again."""
    for step in (5, 20, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(STATE)
    (tmp_path / "runs").mkdir()
    write_events(tmp_path / "runs" / "events.out.tfevents.1.a", [(1, {"loss": 2.5})])
    (place,) = find_places(str(tmp_path))
    assert place.path == tmp_path / "checkpoint-100" / "trainer_state.json"


def test_links_in_a_circle_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(TABLE)
    (tmp_path / "again").symlink_to(tmp_path)
    assert len(find_places(str(tmp_path))) == 1


def test_standard_input_and_pipes_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept in a file meanwhile."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TABLE.encode())))
    (place,) = find_places("-")
    assert place.name == "-"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(TABLE,))
    writer.start()
    assert points(list(open_all(pipe)[0])) == [(1, {"loss": 2.5}), (2, {"loss": 2.25})]
    writer.join()
