"""Which of a step's values are of parts, and which ranks hold the other parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lossguard.probes.wire import OF_FAMILY, WHOLE

_FAMILIES = ("grad_norm", "weight_norm")


class Holding:
    """``of_parameter`` names the holders of each parameter that is cut (``sharded.holders``).

    ``groups`` are these, each once; ``held_by(names)`` is what ``Layout.held_by`` says of values.
    """

    def __init__(
        self, parameters: Sequence[str], of_parameter: Mapping[str, Sequence[int]]
    ) -> None:
        by_ranks = {tuple(ranks): 0 for ranks in of_parameter.values()}
        self.groups = [list(ranks) for ranks in by_ranks]
        number = {ranks: i for i, ranks in enumerate(by_ranks)}
        self._of_value = {
            f"{family}/{name}": number[tuple(ranks)]
            for name, ranks in of_parameter.items()
            for family in _FAMILIES
        }
        if of_parameter:
            all_alike = len(number) == 1 and all(name in of_parameter for name in parameters)
            self._of_value["grad_norm"] = 0 if all_alike else OF_FAMILY

    def held_by(self, names: Sequence[str]) -> list[int]:
        """Of each value the number of its group; empty where all are whole."""
        if not self._of_value:
            return []
        return [self._of_value.get(name, WHOLE) for name in names]
