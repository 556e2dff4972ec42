"""The steps of a run as Parquet."""

from __future__ import annotations

from importlib import import_module
from typing import IO, Any

from lossguard.agent.report.exporting import Series
from lossguard.errors import LossguardError


def write_parquet(series: Series, file: IO[bytes]) -> None:
    """A row a step, a column a metric (double); null where it was not measured, NaN and Inf where
    that was the value. Raises LossguardError without pyarrow."""
    try:
        # Modules of few type annotations.
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        raise LossguardError("parquet needs pyarrow: pip install 'lossguard[parquet]'") from error
    metrics = series.metrics()
    schema = arrow.schema(
        [
            ("step", arrow.int64()),
            ("applied", arrow.int64()),
            ("time_s", arrow.float64()),
            *((name, arrow.float64()) for name in metrics),
        ]
    )
    with parquet.ParquetWriter(file, schema) as writer:
        for chunk in series.read():
            columns = [
                arrow.array([row.step for row in chunk], arrow.int64()),
                arrow.array([row.applied for row in chunk], arrow.int64()),
                arrow.array([row.time_s for row in chunk], arrow.float64()),
                *(
                    arrow.array([row.metrics.get(name) for row in chunk], arrow.float64())
                    for name in metrics
                ),
            ]
            writer.write_batch(arrow.record_batch(columns, schema=schema))
