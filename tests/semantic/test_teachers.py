"""Teachers: rates, layers, windows, and that nothing trains, moves or saves them."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from tiny_teachers import EVEN, KINDS, save, write
from torch import nn

from codec.semantic import CallableTeacher, load_teacher
from codec.semantic.teachers import Teacher, TeacherError, windows

transformers = pytest.importorskip("transformers")


def sound(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saves each tiny teacher once."""
    made = {}

    def folder(kind, **settings):
        key = (kind, *sorted((name, str(value)) for name, value in settings.items()))
        if key not in made:
            made[key] = save(tmp_path_factory.mktemp("teachers") / kind, kind, **settings)
        return made[key]

    return folder


@pytest.fixture
def hubert(folders, tmp_path):
    """A folder of its own, to be spoilt."""
    return shutil.copytree(folders("hubert"), tmp_path / "hubert")


# One interface


@pytest.mark.parametrize("kind", KINDS)
def test_unseen_teachers_plug_in_by_folder(kind, folders):
    teacher = load_teacher(folders(kind))
    rate = 10 if kind.startswith("audio-") else 50
    assert isinstance(teacher, Teacher) and not isinstance(teacher, nn.Module)
    assert (teacher.frame_rate, teacher.dim, teacher.sample_rate) == (rate, 16, 16_000)
    assert teacher.name == f"{kind}-mean"
    for samples in (1, 79, 320, 321, 400, 15_999, 16_000, 16_001, 50_000):
        features = teacher.features(sound(samples))
        assert features.shape == (math.ceil(samples * rate / 16_000), 16) and features.dtype == torch.float32
        assert features.isfinite().all()
    pair = torch.stack([sound(20_000), sound(20_000, 1)])
    assert torch.allclose(teacher(pair)[1], teacher.features(pair[1]), atol=1e-5)
    assert torch.equal(teacher.features(pair[1].numpy()), teacher.features(pair[1]))


@pytest.mark.parametrize("kind", ["hubert", "wavlm", "wav2vec2"])
@pytest.mark.parametrize("normalize", [None, True, False])
def test_rows_are_those_of_transformers(kind, normalize, folders, tmp_path):
    folder = shutil.copytree(folders(kind, **EVEN), tmp_path / "teacher")
    if normalize is not None:
        facts = {"do_normalize": normalize, "sampling_rate": 16_000}
        (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    wav = 0.3 + sound(320 * 40)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize is not False)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        inputs = extractor(wav.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
        states = model(inputs, output_hidden_states=True).hidden_states
    assert len(states) == 3
    two = (states[0] + states[2]) / 2
    for layer, expected in (("mean", sum(states) / 3), (0, states[0]), (2, states[2]), (-1, states[2]), ([0, 2], two)):
        assert torch.allclose(load_teacher(folder, layer).features(wav), expected[0], atol=1e-5), layer


def test_w2v_bert_is_that_of_transformers(folders):
    teacher = load_teacher(folders("wav2vec2-bert"), 1)
    wav = sound(320 * 40)
    extractor = transformers.SeamlessM4TFeatureExtractor(feature_size=20, num_mel_bins=20)
    heard = teacher._heard(wav[None], 40)[0]
    assert torch.equal(heard[: len(wav)], wav)
    assert torch.equal(heard[len(wav) :], wav[:-1].flip(0)[: teacher.reach])  # mirrored
    with torch.no_grad():
        energies = extractor(heard.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
        expected = teacher.model(energies, output_hidden_states=True).hidden_states[1][0]
    assert expected.shape == (40, 16) and torch.allclose(teacher.features(wav), expected, atol=1e-5)


def test_a_row_of_ast_is_the_mean_over_the_bands_of_its_place(folders):
    teacher = load_teacher(folders("audio-spectrogram-transformer"), 2)
    wav = sound(25_000)
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=36, max_length=204)
    with torch.no_grad():
        spectra = extractor(wav.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
        states = teacher.model(spectra, output_hidden_states=True).hidden_states[2][0, 2:]
    bands, places = 3, 19  # patches of 16 by 16, 10 apart
    assert len(states) == bands * places
    expected = torch.stack([states[[place + places * band for band in range(bands)]].mean(0) for place in range(16)])
    assert torch.allclose(teacher.features(wav), expected, atol=1e-5)


@pytest.mark.parametrize("whole", ["encoder", "model", "model with head"])
def test_whisper_from_any_folder_that_holds_its_encoder(whole, folders, tmp_path):
    source = transformers.WhisperModel.from_pretrained(folders("whisper"))
    if whole == "encoder":
        write(source.get_encoder(), tmp_path)
    elif whole == "model":
        write(source, tmp_path)
    else:
        model = transformers.WhisperForConditionalGeneration(source.config)
        model.model.load_state_dict(source.state_dict())
        write(model, tmp_path)
    teacher = load_teacher(tmp_path)
    wav = sound(20_000)
    extractor = transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=2)
    with torch.no_grad():
        energies = extractor(wav.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
        states = source.get_encoder().eval()(energies, output_hidden_states=True).hidden_states
    assert teacher.window == 100 and energies.shape[2] == 200 and len(states) == 3
    assert torch.allclose(teacher.features(wav), (sum(states) / 3)[0, :63], atol=1e-5)


# Windows


@pytest.mark.parametrize("frames", [1, 59, 60, 61, 110, 111, 123, 1000])
@pytest.mark.parametrize("window", [60, 61, 65, 7])
def test_windows_keep_every_row_once_and_far_from_edges(frames, window):
    kept, overlap = [], window // 6
    for place in windows(frames, window):
        assert 0 < place.last - place.first <= window
        rows = range(place.first, place.last)
        assert list(rows[place.inside]) == list(range(frames)[place.keep])
        kept += rows[place.inside]
        assert place.keep.start == 0 or place.keep.start - place.first >= overlap // 2
        assert place.keep.stop == frames or place.last - place.keep.stop >= overlap // 2
    assert kept == list(range(frames))


def test_whisper_hears_long_files_in_windows_of_its_own_length(folders):
    teacher = load_teacher(folders("whisper"))
    wav = sound(5 * 16_000)
    features = teacher.features(wav)  # windows of 100 rows every 84
    assert features.shape == (250, 16)
    assert torch.allclose(features[:92], teacher.features(wav[:32_000])[:92], atol=1e-5)
    middle = teacher.features(wav[84 * 320 : 184 * 320])
    assert torch.allclose(features[92:176], middle[8:92], atol=1e-5)
    assert torch.allclose(features[176:], teacher.features(wav[168 * 320 :])[8:], atol=1e-5)


def test_memory_does_not_grow_with_length_and_what_is_local_is_exact():
    lengths = []

    def loudness(wav):
        lengths.append(wav.shape[1])
        frames = wav[:, : wav.shape[1] // 320 * 320].unflatten(1, (-1, 320))
        return torch.stack([frames.square().mean(2), frames.mean(2)], 2)

    teacher = CallableTeacher(loudness, 50, 2)
    wav = sound(100 * 16_000 - 7)
    features = teacher.features(wav)
    assert features.shape == (5000, 2) and max(lengths) == 30 * 16_000 and len(lengths) == 1 + 4
    frames = wav[: 4999 * 320].unflatten(0, (-1, 320))
    assert torch.allclose(features[:4999], torch.stack([frames.square().mean(1), frames.mean(1)], 1), atol=1e-6)


def test_convolutions_hear_across_the_end_of_a_window(folders):
    """The last row of a window has all the samples that it sees."""
    teacher = load_teacher(folders("hubert"), 0)
    assert (teacher.hop, teacher.reach) == (320, 80)
    heard = []
    original = teacher._rows
    teacher._rows = lambda wav: heard.append(wav) or original(wav)
    teacher.features(sound(31 * 16_000))
    assert [wav.shape[1] for wav in heard] == [30 * 16_000 + 80, 6 * 16_000 + 80]


# Frozen


def test_a_parent_module_neither_trains_nor_saves_it(folders):
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher = load_teacher(folders("hubert"))
            self.own = nn.Linear(2, 2)

    parent = Parent()
    before = parent.teacher.features(sound(8000))
    parent.train().requires_grad_(True).double()
    assert torch.equal(parent.teacher.features(sound(8000)), before)  # dropout of a half would be heard
    parent.teacher.model.train()
    assert torch.equal(parent.teacher.features(sound(8000)), before)
    assert sorted(parent.state_dict()) == ["own.bias", "own.weight"] and len(list(parent.parameters())) == 2
    assert not any(parameter.requires_grad for parameter in parent.teacher.model.parameters())


def test_features_have_no_gradient_but_may_be_trained_towards(folders):
    teacher = load_teacher(folders("wavlm"))
    wav = sound(8000)[None].requires_grad_()
    features = teacher(wav)
    assert not features.requires_grad and not features.is_inference()
    student = torch.zeros_like(features, requires_grad=True)
    (student * features).sum().backward()
    assert torch.equal(student.grad, features) and wav.grad is None


def test_autocast_around_it_changes_nothing(folders):
    teacher = load_teacher(folders("hubert"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = teacher.features(sound(8000))
    assert torch.equal(inside, teacher.features(sound(8000)))


def test_bfloat16_is_near_and_another_teacher(folders):
    exact, fast = load_teacher(folders("hubert")), load_teacher(folders("hubert"), bfloat16=True)
    a, b = exact.features(sound(16_000)), fast.features(sound(16_000))
    assert a.dtype == b.dtype == torch.float32 and not torch.equal(a, b)
    assert (a - b).square().sum() < 0.01 * (a - a.mean(0)).square().sum()
    assert exact.fingerprint != fast.fingerprint


# Known by its fingerprint


def test_the_fingerprint_is_of_weights_and_layers_not_of_the_folder(folders, hubert):
    teacher = load_teacher(folders("hubert"))
    moved = load_teacher(hubert.rename(hubert.with_name("moved")))
    assert moved.fingerprint == teacher.fingerprint and moved.name == "moved-mean"
    assert load_teacher(folders("hubert"), [0, 1, 2]).fingerprint == teacher.fingerprint
    others = [load_teacher(folders("hubert"), layer).fingerprint for layer in (0, 1, [0, 1])]
    others.append(load_teacher(folders("hubert", seed=1)).fingerprint)
    (hubert.with_name("moved") / "preprocessor_config.json").write_text('{"do_normalize": false}')
    others.append(load_teacher(hubert.with_name("moved")).fingerprint)
    assert len({teacher.fingerprint, *others}) == 6
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in others)


def test_loading_leaves_the_random_state_alone(folders):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_teacher(folders("hubert")), load_teacher(folders("whisper"))
    assert torch.equal(torch.rand(3), expected)


# Refused


def refused(match, *args, **options):
    with pytest.raises(TeacherError, match=match) as caught:
        load_teacher(*args, **options)
    assert "\n" not in str(caught.value)


def test_layers_that_are_not_there(folders):
    refused("layer=3: this teacher has layers 0 to 2", folders("hubert"), 3)
    refused("layer=-4: this teacher has layers 0 to 2", folders("hubert"), -4)
    refused("it is a number, a list", folders("hubert"), "average")
    refused("it is a number, a list", folders("hubert"), [])
    refused("names a layer twice", folders("hubert"), [2, -1])


def test_a_hub_id_without_network(monkeypatch):
    import huggingface_hub

    def no_network(*args, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot reach\nthe hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    refused("neither a folder nor to be had from the hub.*give its folder", "facebook/hubert-base-ls960")
    refused("there is no folder hubert-base: give the folder of a teacher, or a hub id", "hubert-base")
    refused("there is no folder ./no/hubert", "./no/hubert")


def test_pickles_are_not_read(hubert):
    (hubert / "model.safetensors").unlink()
    refused("its weights are missing", hubert)
    torch.save({}, hubert / "pytorch_model.bin")
    refused("pickled weights, which can run code.*save them as safetensors", hubert)


def test_weights_that_are_not_all_there(hubert):
    from safetensors.torch import load_file, save_file

    tensors = load_file(hubert / "model.safetensors")
    name = "encoder.layers.1.feed_forward.output_dense.weight"
    del tensors[name]
    save_file(tensors, hubert / "model.safetensors", {"format": "pt"})
    refused("missing or of another shape.*output_dense.weight", hubert)
    (hubert / "model.safetensors").write_bytes(b"no tensors at all")
    refused("do not fit config.json", hubert)


def test_whisper_weights_that_are_not_all_there(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders("whisper"), tmp_path / "whisper")
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layers.1.fc1.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    refused("do not fit config.json.*layers.1.fc1.weight", folder)


def test_folders_that_hold_no_teacher(hubert, tmp_path):
    refused("holds no config.json", tmp_path)
    (hubert / "config.json").write_text('{"model_type": "bert"}')
    refused("no teacher of model_type 'bert': there is audio-spectrogram-transformer, data2vec-audio", hubert)
    (hubert / "config.json").write_text("{")
    refused("config.json is not readable", hubert)


def test_a_teacher_of_another_rate_is_refused_or_resampled(hubert):
    config = json.loads((hubert / "config.json").read_text())
    config |= {
        "model_type": "mert_model", "architectures": ["MERTModel"], "feature_extractor_cqt": False, "deepnorm": False,
        "attention_relax": -1.0, "auto_map": {"AutoModel": "modeling_MERT.MERTModel"},
    }
    (hubert / "config.json").write_text(json.dumps(config))
    (hubert / "preprocessor_config.json").write_text('{"sampling_rate": 24000, "do_normalize": true}')
    (hubert / "modeling_MERT.py").write_text("raise SystemExit('code that came with a model was run')")
    refused("hears 24 kHz audio.*resample=True", hubert)
    teacher = load_teacher(hubert, resample=True)
    assert (teacher.frame_rate, teacher.native_rate, teacher.sample_rate) == (75, 24_000, 16_000)
    for samples in (1, 213, 214, 16_000, 16_001, 34 * 16_000 + 5):
        assert teacher.features(sound(samples)).shape == (math.ceil(samples * 75 / 16_000), 16)
    (hubert / "config.json").write_text(json.dumps(config | {"feature_extractor_cqt": True}))
    refused("needs code of its own, which is not run: take one without", hubert, resample=True)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_a_mel_extractor_of_another_rate_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders("whisper"), tmp_path / "whisper")
    transformers.WhisperFeatureExtractor(feature_size=20, sampling_rate=8000).save_pretrained(folder)
    refused("hears 8 kHz audio", folder)


def test_audio_of_other_shapes(folders):
    teacher = load_teacher(folders("hubert"))
    with pytest.raises(TeacherError, match=r"takes \(T,\)"):
        teacher.features(torch.zeros(1, 8000))
    with pytest.raises(TeacherError, match="at least one sample"):
        teacher.features(torch.zeros(0))
    with pytest.raises(TeacherError, match=r"must be \(B, T\)"):
        teacher(torch.zeros(8000))


# Callables


def test_a_function_as_teacher():
    def one_less(wav):  # as convolutions without padding have it
        return wav.unfold(1, 400, 320)[..., :3]

    teacher = CallableTeacher(one_less, 50, 3, name="mine")
    assert teacher.features(sound(16_000)).shape == (50, 3)
    wav = sound(16_000)
    assert torch.equal(teacher.features(wav)[:49], wav.unfold(0, 400, 320)[:, :3])
    assert torch.equal(teacher.features(wav)[49], teacher.features(wav)[48])
    assert teacher.fingerprint != CallableTeacher(one_less, 50, 3, name="yours").fingerprint
    with pytest.raises(TeacherError, match="gives 49 rows for 1 s instead of 100: its rate is not 100 frames/s"):
        CallableTeacher(one_less, 100, 3)
    with pytest.raises(TeacherError, match="state its true width"):
        CallableTeacher(one_less, 50, 4)
    with pytest.raises(TeacherError, match="must divide 16000"):
        CallableTeacher(one_less, 75, 3)


def test_a_module_as_teacher_is_in_evaluation_mode_even_within_its_parent():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.dropout = nn.Linear(320, 4), nn.Dropout(0.5)

        def forward(self, wav):
            return self.dropout(self.linear(wav.unflatten(1, (-1, 320))))

    network = Network()
    parent = nn.Sequential(network)
    teacher = CallableTeacher(network, 50, 4)
    before = teacher.features(sound(16_000))
    parent.train()
    assert torch.equal(teacher.features(sound(16_000)), before) and not before.requires_grad
    with torch.no_grad():
        network.linear.weight += 1
    assert CallableTeacher(network, 50, 4).fingerprint != teacher.fingerprint


# torchaudio


@pytest.fixture
def pipeline(monkeypatch):
    """A bundle of torchaudio's in a tiny size, as HUBERT_TINY."""
    torchaudio = pytest.importorskip("torchaudio", exc_type=(ImportError, OSError))
    from torchaudio import models, pipelines

    torch.manual_seed(0)
    model = models.wav2vec2_model(
        "group_norm", [(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2], False, 16, 0.1, 4, 2, 2, 2, 0.1, 24, 0.1, 0.1,
        False, 0.1, None,
    )

    class Bundle:
        sample_rate = 16_000

        def get_model(self, *, dl_kwargs=None):
            assert dl_kwargs["weights_only"] is True  # no code in a pickle is run
            return model

    monkeypatch.setattr(pipelines, "HUBERT_TINY", Bundle(), raising=False)
    return torchaudio, model


def test_a_pipeline_of_torchaudio(pipeline):
    _, model = pipeline
    teacher = load_teacher("torchaudio:HUBERT_TINY")
    assert (teacher.frame_rate, teacher.dim, teacher.layers) == (50, 16, (1, 2))
    assert teacher.name == "torchaudio-HUBERT_TINY-mean"
    wav = sound(16_000)
    with torch.no_grad():
        heard = torch.cat([wav, wav[:-1].flip(0)[:80]])
        expected, _ = model.eval().extract_features(heard[None])
    assert torch.allclose(teacher.features(wav), (expected[0] + expected[1])[0] / 2, atol=1e-5)
    assert torch.allclose(load_teacher("torchaudio:HUBERT_TINY", 2).features(wav), expected[1][0], atol=1e-5)
    refused("layer=0: this teacher has layers 1 to 2", "torchaudio:HUBERT_TINY", 0)


def test_pipelines_that_are_no_teachers(pipeline, monkeypatch):
    refused("no pipeline of this name", "torchaudio:NO_SUCH_THING")
    from torchaudio import pipelines

    class Offline:
        sample_rate = 16_000

        def get_model(self, *, dl_kwargs=None):
            raise OSError("no\nnetwork")

    monkeypatch.setattr(pipelines, "HUBERT_TINY", Offline())
    refused("not to be had from the network", "torchaudio:HUBERT_TINY")


def test_numpy_audio_of_any_float(folders):
    teacher = load_teacher(folders("hubert"))
    wav = sound(5000)
    assert torch.allclose(teacher.features(wav.numpy().astype(np.float64)), teacher.features(wav), atol=1e-5)
