from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from stream_models import noise, streamed

from codec import hub
from codec.cli import main
from codec.export import ExportError, export, formats

EXAMPLE = Path(__file__).parents[1] / "examples" / "onnx_codec.py"
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(tiny_model, tmp_path_factory):
    return export(tiny_model, tmp_path_factory.mktemp("export") / "onnx")


def test_whole_signals_have_the_codes_and_samples_of_the_live_model(tiny_model, exported):
    encoder, decoder = (onnxruntime.InferenceSession(exported / f"{name}.onnx") for name in ("encoder", "decoder"))
    for batch, frames in ((1, 2), (2, 31), (1, 777)):
        wav = 0.3 * torch.randn(batch, 1, frames * tiny_model.frame_size, generator=torch.Generator().manual_seed(frames))
        tokens = tiny_model.encode(wav)
        (codes,) = encoder.run(None, {"samples": wav.numpy()})
        assert (codes == tokens.codes.numpy()).mean() > 0.999
        (audio,) = decoder.run(None, {"codes": tokens.codes.numpy()})
        np.testing.assert_allclose(audio, tiny_model.decode(tokens).numpy(), rtol=0, atol=1e-5)


def test_the_example_codes_whole_and_live_without_torch(tiny_model, exported, tmp_path):
    wav = 0.3 * torch.randn(1, 1, 20 * tiny_model.frame_size - 33, generator=torch.Generator().manual_seed(1))
    soundfile.write(tmp_path / "in.wav", wav[0, 0].numpy(), tiny_model.sample_rate, subtype="FLOAT")
    blocker = "import sys; sys.modules['torch'] = None; import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    arguments = [str(EXAMPLE), str(exported), *(str(tmp_path / name) for name in ("in.wav", "whole.wav", "live.wav"))]
    subprocess.run([sys.executable, "-c", blocker, *arguments], check=True, timeout=120)
    expected = tiny_model.decode(tiny_model.encode(wav))[0, 0].numpy()
    for name, compared in (("whole.wav", expected.size), ("live.wav", expected.size - tiny_model.decoder.delay)):
        audio, rate = soundfile.read(tmp_path / name)
        assert rate == tiny_model.sample_rate
        assert audio.shape == expected.shape
        np.testing.assert_allclose(audio[:compared], expected[:compared], rtol=0, atol=1e-4)  # 16 bits


def test_transformers_are_exported_for_every_length(tmp_path):
    """Whose attention live code cuts into spans, as many as the signal has."""
    model = streamed("mimi")
    export(model, tmp_path / "out", format="torch")
    encoder, decoder = (torch.export.load(tmp_path / "out" / f"{name}.pt2").module() for name in ("encoder", "decoder"))
    for batch, frames in ((1, 2), (3, 5), (1, 333)):
        wav = noise(batch, 1, frames * model.frame_size, seed=frames)
        tokens = model.encode(wav)
        (codes,) = encoder(wav)
        assert (codes == tokens.codes).double().mean() > 0.999
        (audio,) = decoder(tokens.codes)
        torch.testing.assert_close(audio, model.decode(tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["encodec", "seanet"])
def test_graphs_of_one_length_are_refused(name, tmp_path):
    with pytest.raises(ExportError, match="has an LSTM"):
        export(streamed(name), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_back_is_refused(tiny_model, tmp_path, monkeypatch):
    def load(path):
        raise RuntimeError("broken\ninside")

    monkeypatch.setitem(formats.FORMATS, "torch", formats.Format(".pt2", lambda graph, path: None, load))
    with pytest.raises(ExportError, match="encoder cannot be read back: .*[(]broken[)]$"):
        export(tiny_model, tmp_path / "out", format="torch")
    assert list(tmp_path.iterdir()) == []


def test_what_differs_from_the_live_model_is_not_kept(tiny_model, tmp_path, monkeypatch):
    real = formats._load_torch

    def load(path):
        run = real(path)
        return lambda inputs: [y * 1.01 if y.is_floating_point() else y for y in run(inputs)]

    monkeypatch.setitem(formats.FORMATS, "torch", formats.Format(".pt2", formats._write_torch, load))
    with pytest.raises(ExportError, match="is off by"):
        export(tiny_model, tmp_path / "out", format="torch")
    assert list(tmp_path.iterdir()) == []


def test_packages_of_torch_on_the_command_line(tiny_model, tmp_path, capsys):
    hub.save(tiny_model, tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--format", "torch", "--codebooks", "2"]) == 0
    assert capsys.readouterr().out.count("checked") == 4
    about = json.loads((tmp_path / "out" / "codec.json").read_text())
    program = torch.export.load(tmp_path / "out" / "encoder.pt2").module()
    (codes,) = program(torch.zeros(1, 1, 5 * about["frame_size"]))
    assert codes.shape == (1, 2, 5)


def test_refusals(tiny_model, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="there is onnx and torch"):
        export(tiny_model, tmp_path / "out", format="tflite")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ExportError, match="name a new folder"):
        export(tiny_model, tmp_path / "full")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match="neural-codec-toolkit\\[export\\]"):
        export(tiny_model, tmp_path / "out")
    monkeypatch.setattr(tiny_model.encoder, "window", (100, 20))
    with pytest.raises(ExportError, match="coded in windows"):
        export(tiny_model, tmp_path / "out", format="torch")
    assert not (tmp_path / "out").exists()
