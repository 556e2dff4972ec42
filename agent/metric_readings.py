"""What an exported metric is, and the ways in which its points are read off the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

from lossguard.agent.prometheus.figures import Figures, RankFigures, RunFigures

Kind: TypeAlias = Literal["gauge", "counter", "info"]
Point: TypeAlias = tuple[tuple[str, ...], float]
"""What the labels say, and the value."""
Reading: TypeAlias = Callable[[Figures, float], Iterable[Point]]
"""Of the figures and the monotonic clock now [s]."""


class Metric(NamedTuple):
    name: str
    """Under ``lossguard``, in parts: ``run.step``. The unit stands in it only where two would else
    be called alike."""
    kind: Kind
    """A counter only grows, until the agent or the process restarts; an info is always 1."""
    unit: str
    """By UCUM, what is counted in braces; empty where there is none."""
    help_text: str
    labels: tuple[str, ...]
    read: Reading


def of_run(
    name: str, unit: str, help_text: str, read: Callable[[RunFigures], float | None],
    kind: Kind = "gauge",
) -> Metric:  # fmt: skip
    def points(figures: Figures, now: float) -> Iterator[Point]:
        for run in figures.runs:
            if (value := read(run)) is not None:
                yield (run.run,), float(value)

    return Metric(f"run.{name}", kind, unit, help_text, ("run",), points)


def value_of_run(name: str, unit: str, key: str, help_text: str) -> Metric:
    return of_run(name, unit, help_text, lambda run: run.values.get(key))


def limit_of_run(name: str, key: str, help_text: str) -> Metric:
    return of_run(name, "", help_text, lambda run: run.limits.get(key))


def incidents_of_run(
    name: str, help_text: str, read: Callable[[RunFigures], Mapping[tuple[str, str], int]]
) -> Metric:
    labels = ("run", "symptom", "severity")
    return Metric(f"run.{name}", "gauge", "{incident}", help_text, labels, lambda figures, now: (
        ((run.run, *what), float(count))
        for run in figures.runs for what, count in read(run).items()
    ))  # fmt: skip


def of_rank(
    name: str, unit: str, help_text: str, read: Callable[[RankFigures, float], float],
    kind: Kind = "gauge",
) -> Metric:  # fmt: skip
    return Metric(f"rank.{name}", kind, unit, help_text, ("run", "rank"), lambda figures, now: (
        ((run.run, str(rank.rank)), float(read(rank, now)))
        for run in figures.runs for rank in run.ranks
    ))  # fmt: skip


def of_agent(
    name: str, unit: str, help_text: str, read: Callable[[Figures, float], float],
    kind: Kind = "gauge",
) -> Metric:  # fmt: skip
    return Metric(f"agent.{name}", kind, unit, help_text, (),
                  lambda figures, now: [((), float(read(figures, now)))])  # fmt: skip


def by_label(
    name: str, kind: Kind, unit: str, help_text: str, label: str,
    read: Callable[[Figures], Mapping[str, float]],
) -> Metric:  # fmt: skip
    """With one label; a bool counts as 0 or 1."""
    return Metric(name, kind, unit, help_text, (label,), lambda figures, now: (
        ((what,), float(value)) for what, value in read(figures).items()
    ))  # fmt: skip
