"""Tables of recordings: Parquet files as on the Hugging Face hub, and Arrow files as `datasets` saves them (`save_to_disk`).

An audio column holds {bytes, path}: a whole file of audio, or where one is. `datasets` itself is not needed, nor its decoder:
pyarrow finds the bytes and soundfile reads them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from codec.audio import AudioError
from codec.training.listing import DataError

SUFFIXES = (".parquet", ".arrow")
BATCH = 16  # rows that are decoded at once
LEAST = 64  # bytes a row in an audio column that holds audio, not only paths


class Row(NamedTuple):
    """size: bytes of audio, in Parquet those of its row group shared out. meta: the other columns, and the audio's path."""

    size: int
    meta: dict[str, Any]


def is_table(path: Path) -> bool:
    """Whether a file in a folder belongs to a dataset: `datasets` also leaves what it has cached beside."""
    if path.suffix == ".parquet":
        return True
    try:
        state = json.loads((path.parent / "state.json").read_text(encoding="utf-8"))
        return any(file["filename"] == path.name for file in state["_data_files"])
    except FileNotFoundError:
        return not path.name.startswith(("cache-", "indices"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.parent / 'state.json'} cannot be read ({error}); save the dataset again") from None


def is_of_split(path: Path, source: Path, split: str) -> bool:
    """By the name of the file (train-00000-of-00002.parquet) or of a folder that it is in (train/0000.parquet)."""
    return split in (path.stem.partition("-")[0], *path.relative_to(source).parts[:-1])


def read_rows(path: Path) -> tuple[str, list[Row]]:
    """The name of the audio column, "" where there is none, and what is known of each row. Raises DataError where pyarrow is
    missing and for columns among which one cannot choose, OSError and ValueError for a damaged file."""
    pyarrow = _pyarrow()
    if path.suffix == ".parquet":
        with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
            column = _audio_column(file.schema_arrow, path)
            if not column:
                return "", []
            struct = pyarrow.types.is_struct(file.schema_arrow.field(column).type)
            table = file.read(columns=[*_plain_columns(file.schema_arrow, column), f"{column}.path" if struct else column])
            sizes = list(_shares(file.metadata, f"{column}.bytes"))
    else:
        table = _arrow(path)
        column = _audio_column(table.schema, path)
        if not column:
            return "", []
        struct = pyarrow.types.is_struct(table.schema.field(column).type)
        cells = pyarrow.compute.struct_field(table[column], "bytes") if struct else None
        sizes = pyarrow.compute.binary_length(cells).fill_null(0).to_pylist() if struct else [0] * len(table)
    paths = pyarrow.compute.struct_field(table[column], "path") if struct else table[column]
    rows = []
    for size, place, about in zip(sizes, paths.to_pylist(), table.select(_plain_columns(table.schema, column)).to_pylist()):
        where = path.parent / place if place else None
        if size < LEAST and where is not None and where.is_file():
            size = where.stat().st_size
        about = {key: value for key, value in about.items() if value is not None}
        rows.append(Row(size, {**about, **({column: place} if place else {})}))
    return column, rows


def audio(path: str, column: str, row: int) -> bytes | str | None:
    """A cell of the audio column: the bytes of a file, or the path of one, or nothing. Raises AudioError for a damaged table."""
    try:
        stat = os.stat(path)
        cell = _open(path, column, stat.st_size, stat.st_mtime_ns).cell(row)
    except (OSError, ValueError, StopIteration, _pyarrow().ArrowException) as error:
        _open.cache_clear()
        raise AudioError(f"the table cannot be read here ({' '.join(str(error).split())}): fetch it again") from None
    data, place = (None, cell) if isinstance(cell, str) or cell is None else (cell["bytes"], cell["path"])
    if data is None and place:
        return os.path.join(os.path.dirname(path), place)
    return data


@lru_cache(maxsize=1)  # recordings of a shard follow one another
def _open(path: str, column: str, size: int, changed: int) -> _Arrow | _Parquet:
    return _Parquet(path, column) if path.endswith(".parquet") else _Arrow(path, column)


class _Arrow:
    """Mapped into memory: a cell is read where it is looked at."""

    def __init__(self, path: str, column: str):
        self._cells = _arrow(Path(path))[column]

    def cell(self, row: int) -> Any:
        return self._cells[row].as_py()


class _Parquet:
    """Row groups are decoded from their start, some rows at a time, so that memory does not grow with them."""

    def __init__(self, path: str, column: str):
        self._file = _pyarrow().parquet.ParquetFile(path, memory_map=True)
        self._column = column
        self._stops, stop = [], 0
        for group in range(self._file.num_row_groups):
            stop += self._file.metadata.row_group(group).num_rows
            self._stops.append(stop)
        self._group, self._first, self._cells = -1, 0, None
        self._batches: Iterator[Any] = iter(())

    def cell(self, row: int) -> Any:
        group = next(number for number, stop in enumerate(self._stops) if row < stop)
        if group != self._group or row < self._first:
            self._group, self._cells = group, None
            self._first = self._stops[group - 1] if group else 0
            self._batches = self._file.iter_batches(BATCH, [group], [self._column])
        while self._cells is None or row >= self._first + len(self._cells):
            self._first += 0 if self._cells is None else len(self._cells)
            self._cells = next(self._batches).column(0)
        return self._cells[row - self._first].as_py()


def _arrow(path: Path) -> Any:
    pyarrow = _pyarrow()
    return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()


def _audio_column(schema: Any, path: Path) -> str:
    """As `datasets` has noted it in the file, else by its type."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    found = [name for name, value in features.items() if isinstance(value, dict) and value.get("_type") == "Audio"]
    found = [name for name in found if name in schema.names] or [
        field.name for field in schema if _pyarrow().types.is_struct(field.type)
        and {part.name for part in field.type} == {"bytes", "path"} and not _is_image(features.get(field.name))
    ]
    if len(found) > 1 and "audio" not in found:
        raise DataError(f"{path} has several audio columns ({', '.join(found)}): rename the one to tokenize to 'audio'")
    return ("audio" if "audio" in found else found[0]) if found else ""


def _is_image(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "Image"


def _plain_columns(schema: Any, leave: str) -> list[str]:
    """Those that go into metadata: texts, numbers and lists of them."""
    types = _pyarrow().types

    def plain(kind: Any) -> bool:
        if types.is_list(kind) or types.is_large_list(kind):
            return plain(kind.value_type)
        return any(of(kind) for of in (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean))

    return [field.name for field in schema if field.name != leave and plain(field.type)]


def _shares(metadata: Any, name: str) -> Iterator[int]:
    """For each row, its share of the bytes that a column takes in its row group."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = (group.column(index) for index in range(group.num_columns))
        size = sum(column.total_compressed_size for column in columns if column.path_in_schema == name)
        yield from [size // max(1, group.num_rows)] * group.num_rows


def _pyarrow() -> Any:
    try:
        import pyarrow.compute
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise DataError('Parquet and Arrow files need pyarrow: pip install "neural-codec-toolkit[corpus]"') from None
    return pyarrow
