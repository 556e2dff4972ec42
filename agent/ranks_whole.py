"""The whole out of its parts: norms that several ranks measured of one step, put together.

Where tensors are cut over ranks (FSDP, tensor parallel), each rank measures the part that lies on
it and names in its ``Layout`` the ranks that hold the others. The norm of the whole is the root of
the sum of the squares of the norms of its parts. What is whole on every rank is rank 0's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from lossguard.detectors import Family, Observation
from lossguard.probes import wire


class Cut(NamedTuple):
    """The ranks that hold the parts of some values of a family."""

    ranks: tuple[int, ...]
    where: npt.NDArray[np.intp]


class Cuts(NamedTuple):
    """What is cut in the values of a layout."""

    families: Mapping[str, Sequence[Cut]]
    plain: Mapping[str, tuple[int, ...] | None]
    """None: the norm of all in the family of that name."""

    def ranks(self, observation: Observation) -> set[int]:
        """Whose parts it takes to make this one whole."""
        found = {
            rank
            for kind in self.families.keys() & observation.families.keys()
            for cut in self.families[kind]
            for rank in cut.ranks
        }
        for name in self.plain.keys() & observation.values.keys():
            found.update(self.plain[name] or ())
        return found


Parts: TypeAlias = Mapping[int, Observation | None]
"""By rank; None is lost."""


def cuts_of(layout: wire.Layout) -> Cuts:
    """What a layout says of its values. Of one that contradicts itself nothing is believed."""
    groups = [tuple(ranks) for ranks in layout.holders]
    if len(layout.held_by) != len(layout.names) or any(g >= len(groups) for g in layout.held_by):
        return Cuts({}, {})
    places: dict[str, int] = {}
    families: dict[str, dict[int, list[int]]] = {}
    plain: dict[str, tuple[int, ...] | None] = {}
    for name, group in zip(layout.names, layout.held_by, strict=True):
        kind, slash, _ = name.partition("/")
        if slash:
            places[kind] = place = places.get(kind, -1) + 1
            if group >= 0:
                families.setdefault(kind, {}).setdefault(group, []).append(place)
        elif group != wire.WHOLE:
            plain[name] = groups[group] if group >= 0 else None
    cuts = {
        kind: [Cut(groups[g], np.array(where, dtype=np.intp)) for g, where in by_group.items()]
        for kind, by_group in families.items()
    }
    return Cuts(cuts, plain)


def whole(own: Observation, cuts: Cuts, parts: Parts) -> Observation:
    """Rank 0's observation with its parts made whole; what cannot be is absent from it."""
    if not (cuts.families or cuts.plain):
        return own
    known: Parts = {0: own, **parts}
    families, values = dict(own.families), dict(own.values)
    broken: set[str] = set()
    for kind in cuts.families.keys() & families.keys():
        families[kind], is_whole = _whole_family(families[kind], kind, cuts.families[kind], known)
        if not is_whole:
            broken.add(kind)
    for name in cuts.plain.keys() & values.keys():
        ranks = cuts.plain[name]
        if ranks is not None:
            total = _norm_over(name, ranks, known)
        else:
            total = None if name in broken else _norm_of(families.get(name))
        if total is None:
            del values[name]
        else:
            values[name] = total
    return replace(own, values=values, families=families)


def _whole_family(own: Family, kind: str, cuts: Sequence[Cut], parts: Parts) -> tuple[Family, bool]:
    values, missing, is_whole = own.values.astype(np.float64), own.missing.copy(), True
    for ranks, where in cuts:
        squares, measured = np.zeros(len(where)), np.zeros(len(where), dtype=bool)
        for rank in ranks:
            if (part := parts.get(rank)) is None:
                is_whole, measured = False, np.zeros(len(where), dtype=bool)
                break
            if (theirs := part.families.get(kind)) is not None:
                their_values, their_missing = _in_order(own.names, theirs)
                there = ~their_missing[where]
                squares += np.where(there, their_values[where].astype(np.float64) ** 2, 0.0)
                measured |= there
        values[where], missing[where] = np.sqrt(squares), ~measured
    with np.errstate(over="ignore"):
        return Family(own.names, values.astype(np.float32), missing), is_whole


def _in_order(
    names: Sequence[str], family: Family
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Another rank's values and what of them is missing, in the order of our names."""
    if family.names == names:
        return family.values, family.missing
    index = {name: i for i, name in enumerate(family.names)}
    places = np.array([index.get(name, -1) for name in names], dtype=np.intp)
    return family.values[places], family.missing[places] | (places < 0)


def _norm_over(name: str, ranks: Sequence[int], parts: Parts) -> float | None:
    observations = [parts.get(rank) for rank in ranks]
    found = [o.values[name] for o in observations if o is not None and name in o.values]
    if not found or any(o is None for o in observations):
        return None
    return float(np.sqrt(np.sum(np.square(found))))


def _norm_of(family: Family | None) -> float | None:
    if family is None or family.missing.all():
        return None
    return float(np.sqrt(np.sum(family.values[~family.missing].astype(np.float64) ** 2)))
