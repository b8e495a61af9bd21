"""`codec tokenize` of Hugging Face datasets: Parquet as on the hub, and what `save_to_disk` leaves."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec.corpus import TokenDataset, tokenize
from codec.corpus.inputs import list_inputs
from codec.training.listing import DataError
from small_models import make_model, make_config

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

AUDIO = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


@pytest.fixture(scope="module")
def model():
    return make_model(make_config())


def sound(number: int, format: str = "WAV") -> bytes:
    wav, file = 0.2 * np.random.default_rng(number).standard_normal(1600 + 320 * number), io.BytesIO()
    soundfile.write(file, wav, (16_000, 8000)[number % 2], format=format)
    return file.getvalue()


def cells(count: int = 7) -> list[dict | None]:
    """Two of them hold no audio."""
    found = [{"bytes": sound(n, ("WAV", "FLAC")[n % 2]), "path": f"{n}.wav"} for n in range(count)]
    found[2], found[5] = None, {"bytes": b"RIFF no sound", "path": "5.wav"}
    return found


def table(values: list, **columns: list) -> pyarrow.Table:
    return pyarrow.table({"audio": pyarrow.array(values, AUDIO), **columns})


def check(model, data: TokenDataset, expected: dict[str, bytes]) -> None:
    """That the corpus holds these rows: files by their names."""
    assert [data.row(n)["path"] for n in range(data.num_rows)] == list(expected)
    for number, content in enumerate(expected.values()):
        wav, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        assert torch.equal(data[number]["codes"], model.encode(wav, rate).codes[0])


def test_parquet_as_on_the_hub(tmp_path, model):
    folder, held = tmp_path / "set/data", cells()
    folder.mkdir(parents=True)
    rows = table(held, text=[f"word {n}" for n in range(7)], speaker=list(range(7)), scores=[[0.5, n] for n in range(7)], raw=[b"x"] * 7)
    parquet.write_table(rows, folder / "train-00000-of-00001.parquet", row_group_size=3)
    parquet.write_table(table(held[:1]), folder / "test-00000-of-00001.parquet")
    (tmp_path / "set/README.md").write_text("a card")

    report = tokenize(model, tmp_path / "set", tmp_path / "out", split="train", jobs=0)
    data = TokenDataset(tmp_path / "out")
    name = "data/train-00000-of-00001.parquet!/"
    check(model, data, {f"{name}{n}": held[n]["bytes"] for n in (0, 1, 3, 4, 6)})
    assert data.row(2)["text"] == "word 3"
    assert data.row(2)["meta"] == {"speaker": 3, "scores": [0.5, 3], "audio": "3.wav"}
    refused = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert [line["path"] for line in refused] == [f"{name}2", f"{name}5"] and report.quarantined == 2
    assert refused[0]["reason"] == "the row holds no audio" and str(tmp_path) not in refused[1]["reason"]

    assert tokenize(model, tmp_path / "set", tmp_path / "all", jobs=0).recordings == 6
    with pytest.raises(DataError, match="split 'dev'"):
        list_inputs(tmp_path / "set", "dev")
    assert len(list_inputs(folder / "train-00000-of-00001.parquet")) == 7


def test_sizes_make_the_shards_and_processes_the_same_bytes(tmp_path, model):
    """A shard begins in the middle of a row group."""
    rows = table([{"bytes": sound(n), "path": None} for n in range(24)])
    parquet.write_table(rows, tmp_path / "a.parquet", row_group_size=20)
    with pyarrow.OSFile(str(tmp_path / "b.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows, 7)
    for name in ("a.parquet", "b.arrow"):
        inputs = list_inputs(tmp_path / name)
        assert sum(item.size for item in inputs) == pytest.approx(sum(len(sound(n)) for n in range(24)), rel=0.2)
        report = tokenize(model, tmp_path / name, tmp_path / f"out-{name}", jobs=0, shard_bytes=50_000)
        assert report.shards > 3
        data = TokenDataset(tmp_path / f"out-{name}")
        check(model, data, {f"{name}!/{n}": sound(n) for n in range(24)})


def test_a_dataset_that_was_saved_to_disk(tmp_path, model, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    kind = datasets.Features({"voice": datasets.Audio(sampling_rate=16_000, decode=False), "text": datasets.Value("string")})
    held = cells()
    # an Arrow table, since to encode examples datasets asks for torchcodec
    arrow = pyarrow.table({"voice": pyarrow.array(held, AUDIO), "text": list("abcdefg")})
    whole = datasets.Dataset(arrow.replace_schema_metadata(), info=datasets.DatasetInfo(features=kind))
    datasets.DatasetDict({"train": whole, "test": whole.select([6, 1])}).save_to_disk(tmp_path / "set")
    tokenize(model, tmp_path / "set", tmp_path / "test", split="test", jobs=0)
    data = TokenDataset(tmp_path / "test")
    name = "test/data-00000-of-00001.arrow!/"
    check(model, data, {f"{name}0": held[6]["bytes"], f"{name}1": held[1]["bytes"]})
    assert data.row(0)["text"] == "g" and data.row(0)["meta"] == {"voice": "6.wav"}

    whole.to_parquet(tmp_path / "a.parquet")
    assert tokenize(model, tmp_path / "a.parquet", tmp_path / "parquet", jobs=0).recordings == 5
    assert TokenDataset(tmp_path / "parquet").row(0)["meta"] == {"voice": "0.wav"}


def test_audio_that_is_named_and_not_held(tmp_path, model):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/ü.wav").write_bytes(sound(1))
    parquet.write_table(table([{"bytes": None, "path": "clips/ü.wav"}, {"bytes": None, "path": "gone.wav"}]), tmp_path / "a.parquet")
    inputs = list_inputs(tmp_path / "a.parquet")
    assert inputs[0].size == len(sound(1))
    assert tokenize(model, tmp_path / "a.parquet", tmp_path / "out", jobs=0).quarantined == 1
    check(model, TokenDataset(tmp_path / "out"), {"a.parquet!/0": sound(1)})
    assert "no such file" in (tmp_path / "out/quarantine.jsonl").read_text()


def test_caches_and_tables_of_other_things_are_left_out(tmp_path, model):
    (tmp_path / "a.wav").write_bytes(sound(1))
    parquet.write_table(pyarrow.table({"text": ["no audio"]}), tmp_path / "words.parquet")
    image = {"info": {"features": {"picture": {"_type": "Image"}}}}
    picture = pyarrow.table({"picture": pyarrow.array(cells(), AUDIO)}).replace_schema_metadata({"huggingface": json.dumps(image)})
    parquet.write_table(picture, tmp_path / "images.parquet")
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": []}))
    (tmp_path / "cache-1.arrow").write_bytes(b"")
    assert [item.name for item in list_inputs(tmp_path)] == ["a.wav"]
    with pytest.raises(DataError, match="names no audio file"):
        list_inputs(tmp_path / "words.parquet")


def test_damaged_and_ambiguous_tables_say_so(tmp_path, model):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no table")
    parquet.write_table(table(cells()), tmp_path / "b.parquet")
    content = bytearray((tmp_path / "b.parquet").read_bytes())
    content[4:2000] = bytes(1996)
    (tmp_path / "b.parquet").write_bytes(content)
    (tmp_path / "c.wav").write_bytes(sound(0))
    report = tokenize(model, tmp_path, tmp_path / "out", jobs=0)
    assert report.recordings == 1 and report.quarantined == 8
    reasons = (tmp_path / "out/quarantine.jsonl").read_text()
    assert "no whole table" in reasons and "the table cannot be read here" in reasons
    parquet.write_table(pyarrow.table({name: pyarrow.array(cells(), AUDIO) for name in ("left", "right")}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="several audio columns .left, right.") as error:
        list_inputs(tmp_path / "d.parquet")
    assert "\n" not in str(error.value)


def test_without_pyarrow_one_is_told_what_to_install(tmp_path, monkeypatch):
    parquet.write_table(table(cells()), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r'pip install "neural-codec-toolkit\[corpus\]"'):
        list_inputs(Path(tmp_path))
