"""``lossguard backtest``: its options. What it imports, it imports when it is called."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Optional

import typer

from lossguard.errors import ExitCode


class AtLeast(str, Enum):
    """Severities, as an option takes them."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


def backtest(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="Logs, folders of logs, or quoted patterns; - is standard input.",
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a finding on stdout, for scripts.")
    ] = False,
    columns: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="METRIC=COLUMN",
            help="Which column holds what, say loss=my_col,grad_norm=gn; may be repeated.",
        ),
    ] = None,
    pattern: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="REGEX",
            help="How lines of a text log look: (?P<step>...), (?P<loss>...) and so on.",
        ),
    ] = None,
    policy: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME|FILE", help="One of `lossguard policies`, or a TOML file."),
    ] = None,
    plot: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="PICTURE|FOLDER/",
            help="Draw the curves and the findings; for several files a folder.",
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the numbers behind every finding.")
    ] = False,
    min_severity: Annotated[
        AtLeast, typer.Option(help="Leave out findings below this severity.")
    ] = AtLeast.INFO,
    jobs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--jobs", "-j", min=1, help="Processes. Without: one for each core."),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")
    ] = False,
) -> None:
    """Run the detectors over past logs, on the same path as a live run.

    Reads CSV and its kin, JSON, JSON lines, Hugging Face trainer_state.json, TensorBoard event
    files, Weights & Biases .wandb files and plain text, also compressed (gz, xz, bz2).
    """
    from lossguard.agent.backtest_batch import Request
    from lossguard.agent.backtest_session import Session, said_columns
    from lossguard.agent.logs import LogOptions
    from lossguard.agent.logs.text import compiled
    from lossguard.agent.policy_file import find_policy
    from lossguard.detectors import Severity
    from lossguard.policy_choice import wanted_policy

    if pattern is not None:
        compiled(pattern)
    request = Request(
        policy=find_policy(wanted_policy(policy).policy),
        options=LogOptions(columns=said_columns(columns or ()), pattern=pattern),
        explain=explain,
        min_severity=Severity(min_severity.value),
    )
    session = Session(request, as_json=as_json, quiet=quiet, processes=jobs)
    if session.run(files, plot):
        raise typer.Exit(int(ExitCode.DATA))
