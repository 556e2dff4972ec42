"""``lossguard.load_snapshot``: what was kept on disk, for a script to take what it wants."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lossguard.errors import LossguardError
from lossguard.probes.durable import read_snapshot
from lossguard.probes.durable_files import Damaged, folder_of, steps_in


def load_snapshot(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The newest whole snapshot in ``folder``, or the one that is it, every byte checked; no pickle
    is read.

    ``step``, the parts that were captured (``model``: tensors by name, for ``load_state_dict``
    with ``strict=False``; ``optimizers``, ``schedulers``, ``scaler``, ``extra``, ``random``), and
    ``missing``: what could not be written. Raises LossguardError where there is none.
    """
    place = Path(folder)
    steps = steps_in(place)
    if place.name in (folder_of(place, step).name for step in steps_in(place.parent)):
        place, steps = place.parent, [int(place.name.rpartition("-")[2])]
    problems = []
    for step in reversed(steps):
        try:
            found = read_snapshot(place, step)
        except Damaged as error:
            problems.append(str(error))
            continue
        return {"step": found.step, "missing": list(found.missing), **found.kept}
    why = "; ".join(problems) or f"no {folder_of(place, 0).name[:4]}-... folder in it"
    raise LossguardError(f"{place}: there is no snapshot that could be read ({why})")
