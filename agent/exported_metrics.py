"""Every metric that the agent exports, to whomever: one table of names, units, labels and readings.

A label takes few values: a run, a rank, a symptom, a severity, a state, a door or a target; never
a step, and never a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import lossguard
from lossguard.agent.feed import RunState
from lossguard.agent.metric_readings import (
    Metric,
    Point,
    by_label,
    incidents_of_run,
    limit_of_run,
    of_agent,
    of_rank,
    of_run,
    value_of_run,
)
from lossguard.agent.prometheus.figures import Figures
from lossguard.probes import wire


def _messages(name: str, help_text: str) -> Metric:
    return by_label(f"agent.{name}_messages", "counter", "{message}", help_text, "door",
               lambda f: {door.door: getattr(door, name) for door in f.doors})  # fmt: skip


def _run_infos(figures: Figures, now: float) -> Iterator[Point]:
    for run in figures.runs:
        yield (run.run, run.name, run.policy, "true" if run.acts else "false"), 1.0


def _run_states(figures: Figures, now: float) -> Iterator[Point]:
    for run in figures.runs:
        for state in get_args(RunState):
            yield (run.run, state), float(state == run.state)


def _agent_info(figures: Figures, now: float) -> list[Point]:
    return [((lossguard.__version__, str(wire.PROTOCOL)), 1.0)]


def _pings(figures: Figures) -> dict[str, float]:
    if (pings := figures.dead_man) is None:
        return {}
    return {"ok": pings.succeeded, "failed": pings.failed, "withheld": pings.withheld}


def _last_ping(figures: Figures, now: float) -> list[Point]:
    return [((), figures.dead_man.last_success_s)] if figures.dead_man is not None else []


def _sendings(figures: Figures) -> dict[str, float]:
    if (sendings := figures.otel) is None:
        return {}
    return {"ok": sendings.succeeded, "failed": sendings.failed}


def _last_sending(figures: Figures, now: float) -> list[Point]:
    return [((), figures.otel.last_success_s)] if figures.otel is not None else []


METRICS: tuple[Metric, ...] = (
    Metric("run.info", "info", "", "What is called so.", ("run", "name", "policy", "acts"),
           _run_infos),
    Metric("run.state", "gauge", "", "1 for the state that it is in.", ("run", "state"),
           _run_states),
    of_run("start_time", "s", "When it began, in seconds since the epoch.",
            lambda r: r.started_s),
    of_run("step", "{step}", "The newest step.", lambda r: r.step),
    of_run("applied_updates", "{update}",
            "Updates that took effect; a rollback takes some back.", lambda r: r.applied),
    of_run("steps_per_second", "", "How fast it goes; 0 while it does not.",
            lambda r: r.steps_per_s),
    of_run("world_size", "{rank}", "Ranks that it began with.", lambda r: r.world_size),
    of_run("ranks", "{rank}", "Ranks that are there.", lambda r: r.num_ranks),
    of_run("dropped_measurements", "{measurement}",
            "Steps that were measured and never arrived.", lambda r: r.dropped, "counter"),
    of_run("actions", "{action}",
            "What was done to it: updates skipped, rollbacks and the like.",
            lambda r: r.actions, "counter"),
    of_run("incidents", "{incident}", "Incidents so far.", lambda r: r.incidents, "counter"),
    value_of_run("loss", "", "loss", "Training loss of the newest step."),
    value_of_run("validation_loss", "", "val_loss", "The newest validation loss."),
    value_of_run("gradient_norm", "", "grad_norm", "L2 norm of all gradients, before clipping."),
    value_of_run("learning_rate", "", "lr", "Highest learning rate of the parameter groups."),
    value_of_run("loss_scale", "", "loss_scale", "Scale of the GradScaler."),
    value_of_run("step_seconds", "s", "step_time", "From one optimizer step to the next."),
    value_of_run("data_wait", "s", "data_wait", "Of the step, waiting for data."),
    value_of_run("resident_memory", "By", "rss", "Of the training process."),
    value_of_run("device_memory_allocated", "By", "memory_allocated", "By the device's allocator."),
    value_of_run("device_memory", "By", "memory_total", "What the device has."),
    value_of_run("device_utilization", "1", "gpu_utilization",
                 "Share of the last sampling period."),
    value_of_run("device_temperature", "Cel", "gpu_temperature", "Of the device."),
    value_of_run("device_power", "W", "gpu_power", "Of the device."),
    limit_of_run("loss_limit", "loss", "An update with a higher loss is skipped."),
    limit_of_run("gradient_norm_limit", "grad_norm",
           "An update with a higher gradient norm is skipped."),
    incidents_of_run("open_incidents", "Trouble that goes on.", lambda r: r.open),
    incidents_of_run("unacknowledged_incidents", "Of it, what nobody has acknowledged or muted.",
               lambda r: r.calling),
    of_rank("step", "{step}", "Its newest step.", lambda rank, now: rank.step),
    of_rank("silence", "s", "Since it was last heard of.", lambda rank, now: now - rank.heard_s),
    of_rank("dropped_measurements", "{measurement}",
             "Steps that it measured and that never arrived.",
             lambda rank, now: rank.dropped, "counter"),
    Metric("agent.info", "info", "", "This agent.", ("version", "protocol"), _agent_info),
    of_agent("active_runs", "{run}", "Runs that are not over.", lambda f, now: f.active_runs),
    of_agent("figures_age", "s",
              "Since its loop took these numbers: about 1 when it is well.",
              lambda f, now: now - f.taken_s),
    of_agent("loop_lag", "s", "By how much its loop was late, at most, in the last minute.",
              lambda f, now: f.lag_s),
    of_agent("store_failing", "", "1 while the disk does not take what it writes.",
              lambda f, now: f.store_failing),
    of_agent("store_waiting_rows", "{row}", "What is yet to be written.",
              lambda f, now: f.store_waiting),
    of_agent("loop_turns", "{turn}", "Of its loop.", lambda f, now: f.turns, "counter"),
    by_label("agent.left_out", "gauge", "", "What was too much to export.", "what",
        lambda f: {"runs": f.left_out_runs, "ranks": f.left_out_ranks}),
    _messages("taken", "Messages that were taken in."),
    _messages("rejected", "Messages that made no sense."),
    _messages("refused", "Messages of those who may not say that."),
    _messages("failed", "Messages that could not be handled, by a fault of the agent's."),
    by_label("alerts.failing", "gauge", "",
        "1 where messages wait for a person to put something right.", "target",
        lambda f: {name: alert.state == "failing" for name, alert in f.alerts.items()}),
    by_label("alerts.waiting_messages", "gauge", "{message}", "What is yet to be sent.", "target",
        lambda f: {name: alert.waiting for name, alert in f.alerts.items()}),
    by_label("alerts.sent_messages", "counter", "{message}", "Since the agent began.", "target",
        lambda f: {name: alert.sent for name, alert in f.alerts.items()}),
    by_label("dead_man.pings", "counter", "{ping}", "By how they went.", "outcome", _pings),
    Metric("dead_man.last_success_timestamp", "gauge", "s",
           "Of the last ping that went well; 0 before.", (), _last_ping),
    by_label("otel.exports", "counter", "{export}",
        "Of metrics to the OpenTelemetry collector, by how they went.", "outcome", _sendings),
    Metric("otel.last_success_timestamp", "gauge", "s",
           "Of the last export that went well; 0 before.", (), _last_sending),
)  # fmt: skip
