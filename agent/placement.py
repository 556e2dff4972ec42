"""From a raw buffer of float32 to an observation: what each value is called."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lossguard.agent.ranks_whole import cuts_of
from lossguard.detectors import Family, Observation
from lossguard.probes import wire


class Placement:
    """One ``Layout``, prepared: which values are plain metrics and which belong to a family."""

    def __init__(self, layout: wire.Layout) -> None:
        self.layout = layout.layout
        self.cuts = cuts_of(layout)
        self.size = len(layout.names)
        plain = [i for i, name in enumerate(layout.names) if "/" not in name]
        self.plain_names = [layout.names[i] for i in plain]
        self._plain = np.array(plain, dtype=np.intp)
        families: dict[str, list[int]] = {}
        for i, name in enumerate(layout.names):
            if "/" in name:
                families.setdefault(name.partition("/")[0], []).append(i)
        self._families = [
            (kind, tuple(layout.names[i].partition("/")[2] for i in indices), _as_slice(indices))
            for kind, indices in families.items()
        ]

    def place(self, header: wire.Step, payload: bytes | memoryview) -> Observation:
        """The observation of one step. Raises ValueError when the buffer has another length."""
        if len(payload) != 4 * self.size:
            raise ValueError(
                f"step {header.step} of {header.run}: {len(payload)} bytes for {self.size} values"
            )
        values = np.frombuffer(payload, dtype="<f4")
        missing = values.view("<u4") == wire.MISSING_BITS
        plain = {
            name: value
            for name, value, gone in zip(
                self.plain_names,
                values[self._plain].tolist(),
                missing[self._plain].tolist(),
                strict=True,
            )
            if not gone
        }
        families = {
            kind: Family(names, values[where], missing[where])
            for kind, names, where in self._families
            if not missing[where].all()
        }
        return Observation(
            step=header.step,
            values=plain,
            time_s=header.time_s,
            applied=header.applied,
            families=families,
        )


def _as_slice(indices: list[int]) -> slice | npt.NDArray[np.intp]:
    """A slice (a view, no copy) where the values stand side by side."""
    first, last = indices[0], indices[-1]
    if last - first + 1 == len(indices):
        return slice(first, last + 1)
    return np.array(indices, dtype=np.intp)
