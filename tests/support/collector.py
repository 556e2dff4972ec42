"""What an OpenTelemetry collector makes of a request: OTLP, read with OpenTelemetry's own types."""

from __future__ import annotations

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2 as otlp


class Collected:
    """One message. ``metrics`` go by name, ``values`` by name and attributes."""

    def __init__(self, body: bytes) -> None:
        request = ExportMetricsServiceRequest()
        request.MergeFromString(body)  # type: ignore[no-untyped-call]
        (of_resource,) = request.resource_metrics
        (of_scope,) = of_resource.scope_metrics
        self.resource = {a.key: a.value.string_value for a in of_resource.resource.attributes}
        self.scope = of_scope.scope.name
        self.metrics: dict[str, otlp.Metric] = {metric.name: metric for metric in of_scope.metrics}
        assert len(self.metrics) == len(of_scope.metrics), "a name stands there twice"
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for metric in of_scope.metrics:
            for point in points_of(metric):
                labels = frozenset((a.key, a.value.string_value) for a in point.attributes)
                assert (metric.name, labels) not in self.values, "a point stands there twice"
                self.values[metric.name, labels] = point.as_double

    def value(self, metric: str, /, **labels: str) -> float:
        """KeyError where there is none."""
        return self.values[f"lossguard.{metric}", frozenset(labels.items())]


def points_of(metric: otlp.Metric) -> list[otlp.NumberDataPoint]:
    """Of a gauge or a sum."""
    data = metric.sum if metric.HasField("sum") else metric.gauge
    return list(data.data_points)
