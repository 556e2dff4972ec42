"""The table of metrics as Prometheus reads it. No state of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from lossguard.agent.exported_metrics import METRICS
from lossguard.agent.metric_readings import Metric
from lossguard.agent.prometheus.figures import Figures

_UNITS = {"s": "_seconds", "By": "_bytes", "1": "_ratio", "Cel": "_celsius", "W": "_watts"}


class Families(Collector):
    """Reads what ``newest`` gives; called by the threads that answer scrapes."""

    def __init__(self, newest: Callable[[], Figures]) -> None:
        self._newest = newest

    def describe(self) -> list[Family]:
        """Nothing: a scrape tells."""
        return []

    def collect(self) -> Iterator[Family]:
        figures, now = self._newest(), time.monotonic()
        for metric in METRICS:
            yield _family(metric, figures, now)


def _family(metric: Metric, figures: Figures, now: float) -> Family:
    name, points = name_of(metric), metric.read(figures, now)
    if metric.kind == "info":
        info = InfoMetricFamily(name, metric.help_text)
        for labels, _ in points:
            info.add_metric([], dict(zip(metric.labels, labels, strict=True)))
        return info
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(name, metric.help_text, labels=metric.labels)
    for labels, value in points:
        family.add_metric(labels, value)
    return family


def name_of(metric: Metric) -> str:
    """With its unit, as Prometheus' own translation of OpenTelemetry's names has it; the client
    library adds ``_total`` and ``_info``."""
    name = "lossguard_" + metric.name.replace(".", "_").removesuffix("_info")
    unit = _UNITS.get(metric.unit, "")
    return name if name.endswith(unit) else name + unit
