"""``lossguard report`` and ``lossguard export``: their options. Neither needs an agent."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Optional

import typer

RunName = Annotated[
    str, typer.Argument(help="A run: its id, the start of it, or a name. Without: the newest.")
]


class ReportFormat(str, Enum):
    """What a report is written as."""

    HTML = "html"
    MARKDOWN = "md"


class ExportFormat(str, Enum):
    """What the series of a run are written as."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"
    TENSORBOARD = "tensorboard"


def report(
    run: RunName = "",
    output: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--output", "-o", metavar="FILE", help="Without: RUN.html or RUN.md, here."),
    ] = None,
    form: Annotated[
        Optional[ReportFormat],  # noqa: UP045
        typer.Option("--format", help="Without: by the name of the file, else html."),
    ] = None,
    png: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="DIR", help="Draw the plots as PNG files, too; md shows them."),
    ] = None,
) -> None:
    """Write one page about a run: what happened, plots, incidents, causes and fixes.

    The HTML file holds everything itself and asks nothing of the network.
    """
    from lossguard.agent.report.writing import write_report
    from lossguard.home import find_home

    typer.echo(write_report(find_home(), run, output, form.value if form else None, png))


def export(
    run: RunName = "",
    form: Annotated[
        Optional[ExportFormat],  # noqa: UP045
        typer.Option("--format", help="Without: by the name of the file, else csv."),
    ] = None,
    output: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--output", "-o", metavar="FILE", help="Without: named after the run; - is stdout."
        ),
    ] = None,
) -> None:
    """Write every step of a run with all its metrics, for other programs."""
    from lossguard.agent.report.exporting import export_run
    from lossguard.home import find_home

    typer.echo(export_run(find_home(), run, form.value if form else None, output), err=True)
