"""A report into its files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lossguard.agent.report.gathering import Progress as Tell
from lossguard.agent.report.gathering import gather
from lossguard.agent.report.html_page import html_report
from lossguard.errors import InputError, UsageError
from lossguard.home import Home

_SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md"}


def write_report(
    home: Home, run: str, output: str | None, form: str | None, pictures: str | None
) -> str:
    """Write it; a line about what was written. Raises LossguardError."""
    if output is not None and form is None:
        form = _SUFFIXES.get(Path(output).suffix.lower())
        if form is None:
            raise UsageError(f"-o {output!r}: end it in .html or .md, or say --format")
    form = form or "html"
    require_here(home)
    with progress_bar("reading the steps") as tell:
        data = gather(home, run, tell)
    path = Path(output) if output is not None else Path(f"{file_name(data.hello.run)}.{form}")
    drawn: dict[str, Path] = {}
    if pictures is not None:
        from lossguard.agent.report.pictures import draw_pictures

        drawn = draw_pictures(data, Path(pictures))
    if form == "md":
        from lossguard.agent.report.markdown_page import markdown_report

        text = markdown_report(data, drawn, path.absolute().parent)
    else:
        text = html_report(data)
    put(path, lambda file: file.write(text.encode()))
    return f"{path}: {data.hello.name}, {data.extent.count:,} steps, {len(text) / 1e6:.1f} MB"


def require_here(home: Home) -> None:
    """Raises UsageError where the agent is that of another host, which keeps its runs there."""
    home.require_here("what it keeps of runs", "`lossguard report` or `lossguard export`")


def file_name(run: str) -> str:
    """The id of a run as the name of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", run).strip(".-")[:120] or "run"


def put(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Whole or not at all, in a folder that is made where it is missing. Raises InputError where it
    cannot be written."""
    new = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            write(file)
        os.replace(new, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # a part of the way may be no folder
            new.unlink(missing_ok=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Tell]:
    """On stderr, where somebody looks at it."""
    console = Console(stderr=True)
    parts = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
             TimeRemainingColumn())  # fmt: skip
    with Progress(
        *parts, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda share: progress.update(task, completed=share)
