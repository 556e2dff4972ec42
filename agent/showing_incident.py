"""``lossguard show``: one incident with all that was kept of it, for a person. Needs no agent."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lossguard.agent.evidence import STACKS, export
from lossguard.agent.listing import table
from lossguard.detectors.advice import advice_on
from lossguard.errors import InputError
from lossguard.home import Home

_STEPS_SHOWN = 8
_LAYERS_SHOWN = 8
_STACK_LINES = 60
_SHOWN = ("loss", "grad_norm", "lr", "loss_scale", "val_loss", "step_time")
_SAFE = re.compile(r"[A-Za-z0-9._-]{1,160}\Z")


def find_incident(home: Home, name: str) -> Path:
    """The folder of an incident: by its id, or the newest whose id begins so. Raises InputError."""
    folders = home.state / "incidents"
    if name and not _SAFE.match(name):
        raise InputError(f"not an incident's id: {name[:80]!r}")
    found = [path.parent for path in folders.glob(f"{name}*/incident.json")]
    exact = [path for path in found if path.name == name]
    if not found:
        raise InputError(
            f"no incident {name!r} in {folders}: `lossguard incidents` lists those of a run"
            if name
            else f"no incidents in {folders} so far"
        )
    return exact[0] if exact else max(found, key=lambda path: path.stat().st_mtime)


def show_incident(home: Home, name: str, as_json: bool, archive: str) -> None:
    """Print it, or put all of it into one archive. Raises InputError."""
    folder = find_incident(home, name)
    if archive:
        try:
            _say(f"{export(folder, Path(archive))} holds everything that is known of {folder.name}")
        except OSError as error:
            raise InputError(f"{archive}: cannot be written ({error})") from error
        return
    incident = _read(folder)
    if as_json:
        files = sorted(str(path) for path in folder.rglob("*") if path.is_file())
        _say(json.dumps({**incident, "files": files}))
    else:
        _say("\n".join(_page(incident, folder)))


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "incident.json"
    try:
        incident = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not isinstance(incident, dict):
        raise InputError(f"{path}: does not describe an incident")
    return incident


def _page(incident: dict[str, Any], folder: Path) -> Iterator[str]:
    symptom = str(incident.get("symptom", ""))
    advice = advice_on(symptom)
    title = advice.title if advice is not None else symptom
    yield f"{incident.get('severity', '')} {symptom}: {title}"
    opened = incident.get("opened") or 0.0
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(opened)) if opened else "?"
    yield f"{incident.get('id')}, {incident.get('state')}, opened {when}"
    yield ""
    yield str(incident.get("message", ""))
    onset, noticed = incident.get("onset_step"), incident.get("detected_step")
    yield f"began at step {onset}, noticed at step {noticed}"
    if where := incident.get("where"):
        yield f"where: {where}"
    for name, value in (incident.get("evidence") or {}).items():
        yield f"{name}: {value:g}"
    yield ""
    yield "What was done"
    actions = incident.get("actions") or []
    yield from (f"  step {a.get('step')}: {a.get('action')}, {a.get('result')}" for a in actions)
    if not actions:
        yield "  nothing"
    if advice is not None:
        yield from _listed("What it may be", advice.causes)
        yield from _listed("What helps", advice.fixes)
    yield from _last_steps(folder / "steps.csv")
    yield from _layers(folder / "layers.csv")
    yield from _environment(folder / "environment.json")
    yield from _rank_steps(folder)
    yield from _text("Traceback", folder / "traceback.txt")
    yield from _text("Stacks", folder / STACKS)
    yield ""
    yield f"All files: {folder}"


def _listed(title: str, lines: tuple[str, ...]) -> Iterator[str]:
    yield ""
    yield title
    yield from (f"  {number}. {line}" for number, line in enumerate(lines, start=1))


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, csv.Error, ValueError):
        return []


def _last_steps(path: Path) -> Iterator[str]:
    rows = _rows(path)[-_STEPS_SHOWN:]
    names = [name for name in _SHOWN if any(row.get(name) for row in rows)]
    if rows and names:
        yield ""
        yield "The last steps"
        yield table(("step", *names), [[row["step"], *(row[n] for n in names)] for row in rows])


def _layers(path: Path) -> Iterator[str]:
    rows = _rows(path)[:_LAYERS_SHOWN]
    if rows:
        yield ""
        yield "The layers that have changed most"
        head = ("metric", "layer", "newest", "median_before", "ratio")
        yield table(head, [[row.get(name, "") for name in head] for row in rows])


def _environment(path: Path) -> Iterator[str]:
    """Which script, on what, and how it trains."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        words = [shlex.join(known["script"]), f"policy {known['policy']}, host {known['host']}"]
        words += [f"{name} {version}" for name, version in known["versions"].items()]
        config = known.get("config", {}).items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    words += [f"{name} = {value}" for name, value in config]
    yield ""
    yield "What was run"
    yield from (f"  {word}" for word in words)


def _rank_steps(folder: Path) -> Iterator[str]:
    """What the ranks have kept of a step, and how to load it."""
    for place in sorted(folder.glob("rank*/step-*/manifest.json")):
        try:
            body = json.loads(place.read_bytes().partition(b"\n")[2])
            rank, step, holds = body["about"]["rank"], body["step"], body["about"]["holds"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        names = ["the random generators", *(["the batch"] if "forwards" in holds else [])]
        yield ""
        yield f"Of step {step} on rank {rank}: {' and '.join(names)}"
        yield f"  lossguard.load_snapshot({str(place.parent)!r})"


def _text(title: str, path: Path) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    yield ""
    yield f"{title} ({path})"
    yield from (f"  {line}" for line in lines[:_STACK_LINES])
    if len(lines) > _STACK_LINES:
        yield f"  ... {len(lines) - _STACK_LINES} more lines"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
