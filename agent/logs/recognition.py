"""What kind of log a file is, by what it begins with; its suffix only breaks ties."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from lossguard.agent.logs.delimited import Table, runs_in
from lossguard.agent.logs.json_document import JsonDocument
from lossguard.agent.logs.json_lines import JsonLines
from lossguard.agent.logs.json_values import parsed
from lossguard.agent.logs.leveldb_log import MAGIC
from lossguard.agent.logs.log import Log, LogOptions
from lossguard.agent.logs.names import Recogniser
from lossguard.agent.logs.stream import decoded, head_of
from lossguard.agent.logs.table_shape import shape_of
from lossguard.agent.logs.text import PatternLog, TextLog
from lossguard.agent.logs.tfevents import EventFile, EventFiles, looks_like_events
from lossguard.agent.logs.wandb_run import WandbRun
from lossguard.errors import InputError

_HEAD = 1 << 16
_LONGEST_FIRST_LINE = 1 << 22
"""Bytes within which the first line of JSON lines ends."""
_TABLES = (".csv", ".tsv", ".tab")
_COMPRESSED = (".gz", ".xz", ".bz2")
_FOREIGN = {
    b"SQLite format 3": "an SQLite database: export the metrics as CSV",
    b"PAR1": "a Parquet file: convert it to CSV first",
    b"PK\x03\x04": "a zip archive or a PyTorch checkpoint, not a log",
    b"\x89HDF": "an HDF5 file: export the metrics as CSV",
    b"\x93NUMPY": "a NumPy array: save it as text with a header",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a picture",
    b"\x80\x02": "a pickle, which could run code: save the metrics as CSV",
    b"\x80\x04": "a pickle, which could run code: save the metrics as CSV",
    b"ARROW1": "an Arrow file: convert it to CSV first",
}
_CONTROL = re.compile(rb"[\x00-\x07\x0e-\x1a\x1c-\x1f]")


def open_logs(name: str, path: Path, options: LogOptions) -> list[Log]:
    """The logs in one file: one, or one for each run that has columns of its own.

    Raises InputError, with what the file is instead, when it is no log.
    """
    head = head_of(path, _HEAD)
    if not head:
        raise InputError(f"{name}: empty")
    recognisers = _recognisers(options)
    if head.startswith(MAGIC[:4]):
        return [Log(name, WandbRun(path, recognisers()))]
    if looks_like_events(head) or ("tfevents" in path.name and _is_binary(head)):
        return open_events(name, [EventFile(path)], options)
    _refuse_foreign(name, head)
    text = decoded(head)
    if options.pattern is not None:
        return [Log(name, PatternLog(path, recognisers(), options.pattern))]
    start = text.lstrip()[:1]
    if start == "{" or re.match(r"\s*\[\s*[{\]]", text):
        return [Log(name, _json(path, text, recognisers()))]
    lines = text.split("\n")
    if len(head) >= _HEAD:
        lines.pop()
    shape = shape_of(lines, recognisers(), sure=_is_table_by_name(path))
    if shape is None:
        return [Log(name, TextLog(path, recognisers()))]
    runs = runs_in(shape, recognisers())
    return [
        Log(name if len(runs) == 1 else f"{name}#{run}", Table(path, recognisers(), shape, run))
        for run in runs
    ]


def open_events(name: str, files: list[EventFile], options: LogOptions) -> list[Log]:
    """The log in the event files of one run."""
    recogniser = _recognisers(options)()
    return [Log(name, EventFiles(files[0].path, recogniser, files))]


def _recognisers(options: LogOptions) -> Callable[[], Recogniser]:
    return lambda: Recogniser(options.columns)


def _json(path: Path, text: str, recogniser: Recogniser) -> JsonLines | JsonDocument:
    """Lines of objects, or one document: a document's first line is seldom a whole object."""
    first, newline, rest = text.strip().partition("\n")
    if not newline and len(text) > _HEAD // 8:
        text = decoded(head_of(path, _LONGEST_FIRST_LINE))
        first, newline, rest = text.strip().partition("\n")
    if text.lstrip()[0] == "{" and (newline or _is_lines_by_name(path)):
        try:
            value = parsed(first)
        except ValueError:
            # A line that is longer than the head, or broken: what does the next one begin with?
            if _is_lines_by_name(path) or rest.startswith("{"):
                return JsonLines(path, recogniser)
        else:
            if isinstance(value, dict) and "log_history" not in value:
                return JsonLines(path, recogniser)
    elif text.lstrip()[0] == "{" and _is_one_record(first):
        return JsonLines(path, recogniser)
    return JsonDocument(path, recogniser)


def _is_one_record(text: str) -> bool:
    """A single object of numbers is a log of one line."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and not any(isinstance(v, list) for v in value.values())


def _suffixes(path: Path) -> list[str]:
    return [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _COMPRESSED]


def _is_table_by_name(path: Path) -> bool:
    return any(suffix in _TABLES for suffix in _suffixes(path)[-1:])


def _is_lines_by_name(path: Path) -> bool:
    return any(suffix in (".jsonl", ".ndjson") for suffix in _suffixes(path)[-1:])


def _is_binary(head: bytes) -> bool:
    """Control characters are rare in text, even in text that a crash has torn."""
    start = head[:4096]
    return len(_CONTROL.findall(start)) * 10 > len(start)


def _refuse_foreign(name: str, head: bytes) -> None:
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise InputError(f"{name}: this is {what}")
    if head[257:262] == b"ustar":
        raise InputError(f"{name}: this is a tar archive: unpack it first")
    if _is_binary(head) and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(
            f"{name}: a binary file of no kind that is known ({len(head):,} bytes looked at); logs "
            "are CSV, JSON, JSON lines, text, TensorBoard event files or .wandb files"
        )
