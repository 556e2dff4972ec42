"""What the command line prints: runs and incidents."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from lossguard.agent.feed import IncidentLine, RunSummary, finite


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Plain aligned columns; numbers to the right."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(head))]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).isdigit() or text in ("", "-")


def print_runs(runs: Sequence[RunSummary], as_json: bool) -> None:
    if as_json:
        keys = (
            "run", "name", "state", "step", "applied", "world_size", "started",
            "metrics", "last", "incidents", "actions", "dropped",
        )  # fmt: skip
        for run in runs:
            full: dict[str, Any] = msgspec.structs.asdict(run)
            full["last"] = {name: finite(value) for name, value in run.last.items()}
            _say(json.dumps({key: full[key] for key in keys}))
        return
    if not runs:
        _say("No runs yet. Start one: lossguard run --guard your_script.py")
        return
    head = ("run", "state", "step", "loss", "grad norm", "incidents", "actions", "started")
    _say(table(head, [_run_row(run) for run in runs]))


def print_troubles(troubles: Sequence[str]) -> None:
    """What is wrong with the agent's own state; not part of what a script reads."""
    for words in troubles:
        sys.stderr.write(f"lossguard: {words}\n")


def _run_row(run: RunSummary) -> tuple[object, ...]:
    loss, norm = run.last.get("loss"), run.last.get("grad_norm")
    return (
        run.run,
        run.condition,
        run.step,
        "-" if loss is None else f"{loss:.4g}",
        "-" if norm is None else f"{norm:.4g}",
        run.incidents,
        run.actions,
        time.strftime("%m-%d %H:%M", time.localtime(run.started)),
    )


def incident_object(line: IncidentLine) -> dict[str, Any]:
    """An incident as ``--json`` prints it."""
    return {
        "id": line.id,
        "state": line.state,
        "symptom": line.symptom,
        "severity": line.severity,
        "metric": line.metric,
        "onset_step": line.onset_step,
        "detected_step": line.detected_step,
        "end_step": line.end_step,
        "score": finite(line.score),
        "message": line.message,
        "where": line.where,
        "also": line.also,
        "actions": [{"action": a.action, "step": a.step, "result": a.result} for a in line.actions],
    }


def print_incidents(run: str, lines: Sequence[IncidentLine], as_json: bool) -> None:
    if as_json:
        for line in lines:
            _say(json.dumps(incident_object(line)))
        return
    if not lines:
        _say(f"No incidents in {run}.")
        return
    for line in lines:
        end = "open" if line.state == "open" else f"until {line.end_step}"
        where = f" in {line.where}" if line.where else ""
        also = f" (also {', '.join(line.also)})" if line.also else ""
        _say(f"{line.id}  {line.severity}  {line.symptom}{where}{also}")
        _say(f"  steps {line.onset_step} (onset), {line.detected_step} (detected), {end}")
        _say(f"  {line.message}")
        for action in line.actions:
            _say(f"  -> {action.action} at step {action.step}: {action.result}")
