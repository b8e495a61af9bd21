"""The long table of all results: file, model, bitrate, metric, value."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from codec.atomic import put
from codec.evaluation.metrics import METRICS
from codec.evaluation.metrics.tasks import RATE
from codec.evaluation.sweep.summary import Group
from codec.evaluation.sweep.tasks import Reference
from codec.evaluation.systems.original import BITS, ORIGINAL

COLUMNS = ("file", "model", "bitrate", "metric", "value")
ALL = "*"  # the file of figures that are of all recordings together
PARQUET = 'pip install "neural-codec-toolkit[eval]"'


def long(groups: Sequence[Group], names: Sequence[str], together: dict[tuple[str, str], dict[str, float]]) -> Iterator[tuple]:
    """Rows (file, model, bitrate, metric, value).

    bitrate: actual bit/s of the model at this setting over all recordings, the same in all of its rows; the `bitrate` metric
    has that of each recording. Metrics whose mean is weighted have their weights as `NAME:weight`. together: (model,
    setting) -> figures of all recordings together, whose file is `*`.
    """
    for group in groups:
        rate = round(group.bitrate, 2)
        for file, cell in group.cells.items():
            if cell.error:
                continue
            yield file, group.system, rate, "bitrate", cell.bits / cell.seconds
            for name in names:
                if name in cell.values:
                    value, weight = cell.values[name]
                    yield file, group.system, rate, name, value
                    if METRICS[name].weighted:
                        yield file, group.system, rate, f"{name}:weight", weight
        for name, value in together.get((group.system, group.setting), {}).items():
            yield ALL, group.system, rate, name, value


def references(found: Sequence[Reference]) -> Iterator[tuple]:
    """Rows of tasks for the recordings themselves, as the model `original`, and for who hears nothing, as `chance`."""
    for one in found:
        for file, (value, weight) in one.original.items():
            yield file, ORIGINAL, BITS * RATE, one.metric, value
            yield file, ORIGINAL, BITS * RATE, f"{one.metric}:weight", weight
        yield ALL, "chance", 0.0, one.metric, one.chance


def write(out: Path, rows: Sequence[tuple]) -> str:
    """Write results.csv and, with pyarrow, results.parquet. Returns what is missing for the second, empty for nothing."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows((file, model, f"{rate:g}" if rate == int(rate) else rate, metric, repr(value))
                    for file, model, rate, metric, value in rows)
    put(out / "results.csv", text.getvalue().encode())
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:  # not there, or broken
        return PARQUET

    kinds = (pyarrow.string(), pyarrow.string(), pyarrow.float64(), pyarrow.string(), pyarrow.float64())
    columns = list(zip(*rows)) or [()] * len(COLUMNS)
    table = pyarrow.table({name: pyarrow.array(column, kind) for name, column, kind in zip(COLUMNS, columns, kinds)})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    put(out / "results.parquet", buffer.getvalue())
    return ""
