"""The numbers as Prometheus reads them: names, units and labels. No state of its own.

A label takes few values: a run, a rank, a symptom, a severity, a state, a door or a target; never
a step, and never a layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import lossguard
from lossguard.agent.feed import RunState
from lossguard.agent.prometheus.figures import Figures, RunFigures
from lossguard.probes import wire

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily
Reading: TypeAlias = Callable[[RunFigures], float]

_RUN_GAUGES: tuple[tuple[str, str, Reading], ...] = (
    ("start_time_seconds", "When it began, in seconds since the epoch.", lambda r: r.started_s),
    ("step", "The newest step.", lambda r: r.step),
    ("applied_updates", "Updates that took effect; a rollback takes some back.",
     lambda r: r.applied),
    ("steps_per_second", "How fast it goes; 0 while it does not.", lambda r: r.steps_per_s),
    ("world_size", "Ranks that it began with.", lambda r: r.world_size),
    ("ranks", "Ranks that are there.", lambda r: r.num_ranks),
)  # fmt: skip
_RUN_COUNTERS: tuple[tuple[str, str, Reading], ...] = (
    ("dropped_measurements", "Steps that were measured and never arrived.", lambda r: r.dropped),
    ("actions", "What was done to it: updates skipped, rollbacks and the like.",
     lambda r: r.actions),
    ("incidents", "Incidents so far.", lambda r: r.incidents),
)  # fmt: skip
_VALUES = {
    "loss": ("loss", "Training loss of the newest step."),
    "val_loss": ("validation_loss", "The newest validation loss."),
    "grad_norm": ("gradient_norm", "L2 norm of all gradients, before clipping."),
    "lr": ("learning_rate", "Highest learning rate of the parameter groups."),
    "loss_scale": ("loss_scale", "Scale of the GradScaler."),
    "step_time": ("step_seconds", "From one optimizer step to the next."),
    "data_wait": ("data_wait_seconds", "Of the step, waiting for data."),
    "rss": ("resident_memory_bytes", "Of the training process."),
    "memory_allocated": ("device_memory_allocated_bytes", "By the device's allocator."),
    "memory_total": ("device_memory_bytes", "What the device has."),
    "gpu_utilization": ("device_utilization_ratio", "Share of the last sampling period."),
    "gpu_temperature": ("device_temperature_celsius", "Of the device."),
    "gpu_power": ("device_power_watts", "Of the device."),
}
_LIMITS = {
    "loss": ("loss_limit", "An update with a higher loss is skipped."),
    "grad_norm": ("gradient_norm_limit", "An update with a higher gradient norm is skipped."),
}


class Families(Collector):
    """Reads what ``newest`` gives; called by the threads that answer scrapes."""

    def __init__(self, newest: Callable[[], Figures]) -> None:
        self._newest = newest

    def describe(self) -> list[Metric]:
        """Nothing: a scrape tells."""
        return []

    def collect(self) -> Iterator[Metric]:
        figures, now = self._newest(), time.monotonic()
        yield from _of_runs(figures.runs)
        yield from _of_ranks(figures.runs, now)
        yield from _of_agent(figures, now)
        yield from _of_doors(figures)
        yield from _of_outlets(figures)


def _of_runs(runs: tuple[RunFigures, ...]) -> Iterator[Metric]:
    info = InfoMetricFamily("lossguard_run", "What is called so.")
    for run in runs:
        acts = "true" if run.acts else "false"
        about = {"run": run.run, "name": run.name, "policy": run.policy, "acts": acts}
        info.add_metric([], about)
    yield info
    state = GaugeMetricFamily("lossguard_run_state", "1 for the state that it is in.",
                              labels=("run", "state"))  # fmt: skip
    for run in runs:
        for name in get_args(RunState):
            state.add_metric((run.run, name), float(name == run.state))
    yield state
    for name, help_text, read in _RUN_GAUGES:
        gauge = GaugeMetricFamily(f"lossguard_run_{name}", help_text, labels=("run",))
        yield _filled(gauge, {run.run: read(run) for run in runs})
    for name, help_text, read in _RUN_COUNTERS:
        counter = CounterMetricFamily(f"lossguard_run_{name}", help_text, labels=("run",))
        yield _filled(counter, {run.run: read(run) for run in runs})
    for key, (name, help_text) in _VALUES.items():
        gauge = GaugeMetricFamily(f"lossguard_run_{name}", help_text, labels=("run",))
        yield _filled(gauge, {run.run: run.values[key] for run in runs if key in run.values})
    for key, (name, help_text) in _LIMITS.items():
        gauge = GaugeMetricFamily(f"lossguard_run_{name}", help_text, labels=("run",))
        yield _filled(gauge, {run.run: run.limits[key] for run in runs if key in run.limits})
    labels = ("run", "symptom", "severity")
    is_open = GaugeMetricFamily("lossguard_run_open_incidents", "Trouble that goes on.",
                                labels=labels)  # fmt: skip
    calling = GaugeMetricFamily("lossguard_run_unacknowledged_incidents",
                                "Of it, what nobody has acknowledged or muted.",
                                labels=labels)  # fmt: skip
    for run in runs:
        for what, count in run.open.items():
            is_open.add_metric((run.run, *what), count)
        for what, count in run.calling.items():
            calling.add_metric((run.run, *what), count)
    yield is_open
    yield calling


def _of_ranks(runs: tuple[RunFigures, ...], now: float) -> Iterator[Metric]:
    labels = ("run", "rank")
    step = GaugeMetricFamily("lossguard_rank_step", "Its newest step.", labels=labels)
    silence = GaugeMetricFamily("lossguard_rank_silence_seconds", "Since it was last heard of.",
                                labels=labels)  # fmt: skip
    dropped = CounterMetricFamily("lossguard_rank_dropped_measurements",
                                  "Steps that it measured and that never arrived.",
                                  labels=labels)  # fmt: skip
    for run in runs:
        for rank in run.ranks:
            name = (run.run, str(rank.rank))
            step.add_metric(name, rank.step)
            silence.add_metric(name, now - rank.heard_s)
            dropped.add_metric(name, rank.dropped)
    yield from (step, silence, dropped)


def _of_agent(figures: Figures, now: float) -> Iterator[Metric]:
    about = {"version": lossguard.__version__, "protocol": str(wire.PROTOCOL)}
    yield InfoMetricFamily("lossguard_agent", "This agent.", value=about)
    for name, help_text, value in (
        ("active_runs", "Runs that are not over.", figures.active_runs),
        ("figures_age_seconds", "Since its loop took these numbers: about 1 when it is well.",
         now - figures.taken_s),
        ("loop_lag_seconds", "By how much its loop was late, at most, in the last minute.",
         figures.lag_s),
        ("store_failing", "1 while the disk does not take what it writes.", figures.store_failing),
        ("store_waiting_rows", "What is yet to be written.", figures.store_waiting),
    ):  # fmt: skip
        yield GaugeMetricFamily(f"lossguard_agent_{name}", help_text, value=float(value))
    yield CounterMetricFamily("lossguard_agent_loop_turns", "Of its loop.", value=figures.turns)
    left_out = GaugeMetricFamily("lossguard_agent_left_out", "What was too much to export.",
                                 labels=("what",))  # fmt: skip
    yield _filled(left_out, {"runs": figures.left_out_runs, "ranks": figures.left_out_ranks})


def _of_doors(figures: Figures) -> Iterator[Metric]:
    for name, help_text in (
        ("taken", "Messages that were taken in."),
        ("rejected", "Messages that made no sense."),
        ("refused", "Messages of those who may not say that."),
        ("failed", "Messages that could not be handled, by a fault of the agent's."),
    ):
        counter = CounterMetricFamily(f"lossguard_agent_{name}_messages", help_text,
                                      labels=("door",))  # fmt: skip
        yield _filled(counter, {door.door: getattr(door, name) for door in figures.doors})


def _of_outlets(figures: Figures) -> Iterator[Metric]:
    alerts = figures.alerts
    failing = GaugeMetricFamily("lossguard_alerts_failing",
                                "1 where messages wait for a person to put something right.",
                                labels=("target",))  # fmt: skip
    yield _filled(failing, {name: state.state == "failing" for name, state in alerts.items()})
    waiting = GaugeMetricFamily("lossguard_alerts_waiting_messages", "What is yet to be sent.",
                                labels=("target",))  # fmt: skip
    yield _filled(waiting, {name: state.waiting for name, state in alerts.items()})
    sent = CounterMetricFamily("lossguard_alerts_sent_messages", "Since the agent began.",
                               labels=("target",))  # fmt: skip
    yield _filled(sent, {name: state.sent for name, state in alerts.items()})
    if (pings := figures.dead_man) is not None:
        counter = CounterMetricFamily("lossguard_dead_man_pings", "By how they went.",
                                      labels=("outcome",))  # fmt: skip
        went = {"ok": pings.succeeded, "failed": pings.failed, "withheld": pings.withheld}
        yield _filled(counter, went)
        yield GaugeMetricFamily("lossguard_dead_man_last_success_timestamp_seconds",
                                "Of the last ping that went well; 0 before.",
                                value=pings.last_success_s)  # fmt: skip


def _filled(family: Family, values: Mapping[str, float]) -> Family:
    """With one label; a bool counts as 0 or 1."""
    for label, value in values.items():
        family.add_metric((label,), float(value))
    return family
