"""What shards look like on disk. A writer takes recordings in order; their files appear when all of them are whole."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from codec.atomic import Output
from codec.corpus.plan import CorpusError, as_json


class Writer(Protocol):
    """A row tells of one channel of a recording: path, channel, channels, sample_rate, num_samples, seconds, frames, and where
    they are known, text and meta (a dictionary)."""

    def add(self, row: dict[str, Any], parts: Iterable[np.ndarray]) -> None:
        """parts: codes (n, K) uint16, one after the other."""
        ...

    def commit(self) -> list[Path]:
        """The files, which have their names now."""
        ...

    def discard(self) -> None: ...


class NpyShard:
    """NAME.codes.npy (frames, K) uint16, the rows of a shard one after the other; NAME.starts.npy (rows + 1,) int64,
    where each starts; NAME.jsonl, what is known of them, a line each."""

    def __init__(self, stem: Path, header: dict[str, Any]):
        self._paths = [Path(f"{stem}{end}") for end in (".codes.npy", ".starts.npy", ".jsonl")]
        self._outputs: list[Output] = []
        self._width = header["num_codebooks"]
        for path in self._paths:
            self._outputs.append(Output(path))
        self._codes, self._index, self._rows = self._outputs
        self._starts = [0]
        self._header = _npy_header(self._codes, 0, self._width)

    def add(self, row: dict[str, Any], parts: Iterable[np.ndarray]) -> None:
        for part in parts:
            self._codes.write(np.ascontiguousarray(part, "<u2").tobytes())
        self._starts.append(self._starts[-1] + row["frames"])
        self._rows.write(as_json(row) + b"\n")

    def commit(self) -> list[Path]:
        self._codes.seek(0)
        if _npy_header(self._codes, self._starts[-1], self._width) != self._header:
            raise CorpusError("numpy wrote headers of two sizes; report this with your numpy version")
        starts = np.asarray(self._starts, dtype="<i8")
        np.lib.format.write_array_header_1_0(self._index, np.lib.format.header_data_from_array_1_0(starts))
        self._index.write(starts.tobytes())
        for output in self._outputs:
            output.commit()
        return self._paths

    def discard(self) -> None:
        for output in self._outputs:
            output.discard()


def _npy_header(output: Output, frames: int, width: int) -> int:
    """numpy leaves room in it, so that it has one size for every length."""
    np.lib.format.write_array_header_1_0(output, {"descr": "<u2", "fortran_order": False, "shape": (frames, width)})
    return output.tell()


class ParquetShard:
    """NAME.parquet: the columns of a row, `meta` as JSON, and `codes`, K lists of frames."""

    ROWS = 1000  # of a row group

    def __init__(self, stem: Path, header: dict[str, Any]):
        self._pa = pyarrow = _pyarrow()
        self._path = Path(f"{stem}.parquet")
        self._output = Output(self._path)
        text, number = pyarrow.string(), pyarrow.int64()
        self._schema = pyarrow.schema([
            ("path", text), ("channel", number), ("channels", number), ("sample_rate", number), ("num_samples", number),
            ("seconds", pyarrow.float64()), ("frames", number), ("text", text), ("meta", text),
            ("codes", pyarrow.list_(pyarrow.list_(pyarrow.uint16()))),
        ], metadata={"codec": json.dumps(header)})
        self._width = header["num_codebooks"]
        self._buffer = pyarrow.BufferOutputStream()
        self._writer = pyarrow.parquet.ParquetWriter(self._buffer, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._codes: list[np.ndarray] = []

    def add(self, row: dict[str, Any], parts: Iterable[np.ndarray]) -> None:
        if "meta" in row:
            row = {**row, "meta": as_json(row["meta"]).decode()}
        self._rows.append({key: _utf8(value) if isinstance(value, str) else value for key, value in row.items()})
        self._codes.append(np.concatenate([np.zeros((0, self._width), np.uint16), *parts]).T)  # (K, T)
        if len(self._rows) >= self.ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        pyarrow = self._pa
        lengths = np.repeat([codes.shape[1] for codes in self._codes], self._width)
        inner = pyarrow.ListArray.from_arrays(
            pyarrow.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
            pyarrow.array(np.concatenate([codes.ravel() for codes in self._codes])),
        )
        firsts = pyarrow.array(np.arange(len(self._codes) + 1, dtype=np.int32) * self._width)
        outer, fields = pyarrow.ListArray.from_arrays(firsts, inner), list(self._schema)[:-1]
        columns = [pyarrow.array([row.get(field.name) for row in self._rows], field.type) for field in fields]
        self._writer.write_table(pyarrow.Table.from_arrays([*columns, outer], schema=self._schema))
        self._rows, self._codes = [], []

    def commit(self) -> list[Path]:
        self._flush()
        self._writer.close()
        self._output.write(memoryview(self._buffer.getvalue()))
        self._output.commit()
        return [self._path]

    def discard(self) -> None:
        self._output.discard()


class TarShard:
    """NAME.tar of WebDataset: for each row KEY.codes.npy (K, frames) uint16 and KEY.json, the row and the fingerprint."""

    def __init__(self, stem: Path, header: dict[str, Any]):
        self._path, self._header, self._rows = Path(f"{stem}.tar"), header, 0
        self._output = Output(self._path)
        self._tar = tarfile.open(fileobj=self._output, mode="w|", format=tarfile.USTAR_FORMAT)

    def add(self, row: dict[str, Any], parts: Iterable[np.ndarray]) -> None:
        codes, file = np.concatenate([np.zeros((0, self._header["num_codebooks"]), np.uint16), *parts]).T, io.BytesIO()
        np.save(file, np.ascontiguousarray(codes, "<u2"))
        about = {**row, "model": self._header["model"]["name"], "fingerprint": self._header["model"]["fingerprint"]}
        for end, content in (("codes.npy", file.getvalue()), ("json", as_json(about))):
            member = tarfile.TarInfo(f"{self._path.stem}-{self._rows:06d}.{end}")  # no time, no owner: the same bytes again
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))
        self._rows += 1

    def commit(self) -> list[Path]:
        self._tar.close()
        self._output.commit()
        return [self._path]

    def discard(self) -> None:
        self._output.discard()


def _utf8(text: str) -> str:
    """Names of files may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise CorpusError('Parquet needs pyarrow: pip install "neural-codec-toolkit[corpus]"') from None
    return pyarrow


FORMATS: dict[str, type] = {"npy": NpyShard, "parquet": ParquetShard, "webdataset": TarShard}


def check_format(name: str) -> None:
    """Raise CorpusError unless shards can be written in it."""
    if name not in FORMATS:
        raise CorpusError(f"format={name}: there is {', '.join(FORMATS)}")
    if name == "parquet":
        _pyarrow()
