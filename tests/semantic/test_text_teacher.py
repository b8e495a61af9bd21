"""Text teachers: pieces in time, windows, the padded variant, stores, and tiny random models saved by transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch

from tiny_teachers import POSITIONS, save_bert as save

from codec import cli
from codec.semantic.alignment import Word
from codec.semantic.features import FeatureStore, content_key
from codec.semantic.store_files import StoreError
from codec.semantic.teachers import TeacherError
from codec.semantic.text import compute_text, load_text_teacher, pauses
from codec.semantic.transcripts import Skip, Transcript, Transcripts
from codec.training.data import decode

transformers = pytest.importorskip("transformers")

@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save(tmp_path_factory.mktemp("text") / "bert")


@pytest.fixture(scope="module")
def teacher(bert):
    return load_text_teacher(bert)


def said(*words):
    """A transcript of (text, start, end)."""
    return Transcript(" ".join(text for text, _, _ in words), tuple(Word(*word) for word in words))


def hidden(folder, text):
    """All hidden states of a text (layers, N, D), by transformers itself."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
    return torch.cat(states)


# One teacher


def test_what_it_says_of_itself(teacher, bert):
    assert (teacher.name, teacher.dim, teacher.frame_rate, teacher.sample_rate, teacher.window) == ("bert-mean", 16, 50.0, 16_000, POSITIONS)
    assert load_text_teacher(str(bert)).fingerprint == teacher.fingerprint
    others = [load_text_teacher(bert, layer=1), load_text_teacher(bert, frame_rate=25.0), load_text_teacher(bert, padded=True)]
    assert len({teacher.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert [other.name for other in others] == ["bert-1", "bert-mean", "padded-bert-mean"]


def test_each_frame_has_the_state_of_its_piece(teacher, bert):
    features, valid = teacher.features(said(("The", 0.1, 0.2), ("unhappy", 0.3, 0.44), ("cat,", 0.5, 0.58)), 16_000 - 1)
    states = hidden(bert, "the unhappy cat,").mean(0)[1:-1]  # the | un happ y | cat ,
    expected = {}
    expected |= {frame: 0 for frame in range(5, 10)}
    expected |= {15: 1, 16: 1, 17: 2, 18: 2, 19: 2, 20: 2, 21: 3}  # 7 frames for 2 + 4 + 1 characters
    expected |= {25: 4, 26: 4, 27: 4, 28: 5}
    assert features.shape == (50, 16) and features.dtype == torch.float32
    assert valid.dtype == torch.bool and valid.nonzero().flatten().tolist() == sorted(expected)
    for frame, piece in expected.items():
        torch.testing.assert_close(features[frame], states[piece])
    assert not features[~valid].any() and not features.requires_grad


def test_layers(bert):
    transcript, states = said(("cat", 0.0, 0.5)), hidden(bert, "cat")[:, 1]  # (3, D)
    for layer, expected in ((0, states[0]), (2, states[2]), (-1, states[2]), ([0, 1], states[:2].mean(0)), ("mean", states.mean(0))):
        features, _ = load_text_teacher(bert, layer).features(transcript, 8000)
        torch.testing.assert_close(features[3], expected)
    for layer in (3, "last", []):
        with pytest.raises(TeacherError, match="layer"):
            load_text_teacher(bert, layer)


@pytest.mark.parametrize("rate, samples, frames", [(50.0, 16_000, 50), (50.0, 16_001, 51), (12.5, 16_000, 13), (100.0, 1, 1), (50.0, 0, 0)])
def test_frames_of_a_rate(bert, rate, samples, frames):
    features, valid = load_text_teacher(bert, frame_rate=rate).features(said(("cat", 0.0, 2.0)), samples)
    assert features.shape == (frames, 16) and valid.shape == (frames,) and valid.all()


def test_it_never_trains(bert, teacher):
    class Codec(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher = load_text_teacher(bert)

    parent = Codec().train()
    assert not list(parent.parameters()) and not parent.state_dict()
    parent.teacher._model.train()
    transcript = said(("the", 0.0, 0.5), ("cat", 0.5, 1.0))
    torch.testing.assert_close(parent.teacher.features(transcript, 16_000)[0], teacher.features(transcript, 16_000)[0])
    assert not any(parameter.requires_grad for parameter in teacher._model.parameters())


def test_text_that_the_tokenizer_does_not_know(teacher, bert):
    features, valid = teacher.features(said(("\u200b", 0.0, 0.2), ("Ж", 0.2, 0.4), ("c\u200bat", 0.4, 0.6), ("cat", 0.6, 0.6)), 16_000)
    assert valid.nonzero().flatten().tolist() == [*range(10, 30)]  # nothing is left of the first; [UNK] has a state
    torch.testing.assert_close(features[25], features[21])


def test_words_out_of_step(teacher):
    """A word that begins before the one before it has ended takes over; what lies behind the end of the recording is cut."""
    features, valid = teacher.features(said(("cat", 0.0, 0.5), ("sat", 0.4, 3.0)), 16_000)
    assert valid.all() and torch.equal(features[21], features[49]) and not torch.equal(features[19], features[20])


def test_no_times_no_features(teacher):
    for transcript in (Transcript("the cat"), said(("cat", 1.0, 1.0))):
        with pytest.raises(TeacherError, match="word times"):
            teacher.features(transcript, 16_000)


# Long texts


def test_a_long_text_is_read_in_windows(teacher, bert):
    letters = "abcdefg"
    words = [letters[(i * i) % 7] for i in range(40)]
    states, offsets = teacher.read(" ".join(words))
    assert offsets.tolist() == [[2 * i, 2 * i + 1] for i in range(40)]
    room, overlap = POSITIONS - 2, (POSITIONS - 2) // 4
    starts = list(range(0, 40 - overlap, room - overlap))
    assert len(starts) == 4
    for index, start in enumerate(starts):
        first = start + (overlap // 2 if index else 0)
        last = min(start + room - (overlap - overlap // 2), 40) if index < 3 else 40
        window = hidden(bert, " ".join(words[start : start + room])).mean(0)[1:-1]
        torch.testing.assert_close(states[first:last], window[first - start : last - start])


@pytest.mark.parametrize("count", [*range(POSITIONS - 4, POSITIONS + 1), 24, 25, 26, 27])
def test_every_piece_is_read_once(teacher, count):
    _, offsets = teacher.read(" ".join("a" * count))
    assert offsets[:, 0].tolist() == list(range(0, 2 * count, 2))


# The padded variant


def test_padded_rows_are_tokens_one_after_the_other(bert):
    padded = load_text_teacher(bert, padded=True)
    features, valid = padded.features(Transcript("the cat"), 16_000 * 12 // 50)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    model = transformers.AutoModel.from_pretrained(bert).eval()
    with torch.no_grad():
        tokens = tokenizer("the cat", padding="max_length", max_length=12, return_tensors="pt")
        states = torch.stack(model(**tokens, output_hidden_states=True).hidden_states).mean(0)[0]
    assert tokens["input_ids"][0].tolist() == [2, 5, 6, 3, *[0] * 8] and valid.all()
    torch.testing.assert_close(features, states)
    features, valid = padded.features(Transcript("the cat"), 16_000)  # more frames than the model has positions
    assert features.shape == (50, 16) and valid.tolist() == [True] * POSITIONS + [False] * (50 - POSITIONS)
    features, valid = padded.features(Transcript("the cat"), 400)
    assert features.shape == (2, 16) and valid.all()


# Other models


@pytest.mark.parametrize("kind, settings", [
    ("Electra", {"embedding_size": 8}), ("DebertaV2", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}), ("Roberta", {}),
    ("DistilBert", {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2}),
])
def test_other_kinds_of_models(kind, settings, tmp_path):
    folder = save(tmp_path / kind, kind, **settings)
    other = load_text_teacher(folder)
    assert other.dim == 16 and other.window == (POSITIONS - 1 if kind == "Roberta" else POSITIONS)
    features, valid = other.features(said(("the", 0.0, 0.5), ("cat", 0.5, 1.0)), 16_000)
    torch.testing.assert_close(features[0], hidden(folder, "the cat").mean(0)[1])
    assert valid.all() and len(other.read(" ".join("abc" * 20))[1]) == 60


def test_what_cannot_be_loaded(bert, tmp_path):
    for name in (tmp_path / "none", tmp_path):
        with pytest.raises(TeacherError, match="folder|config.json"):
            load_text_teacher(name)
    with pytest.raises(TeacherError, match="must divide"):
        load_text_teacher(bert, frame_rate=30.0)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((bert / name).read_bytes())
    with pytest.raises(TeacherError, match="tokenizer") as error:
        load_text_teacher(tmp_path)
    assert "\n" not in str(error.value)


def test_a_model_without_its_pooler_is_whole(bert, tmp_path):
    from safetensors.torch import load_file, save_file

    for path in bert.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(bert / "model.safetensors")
    save_file({name: value for name, value in weights.items() if not name.startswith("pooler")}, tmp_path / "model.safetensors")
    assert load_text_teacher(tmp_path).dim == 16
    save_file({name: value for name, value in weights.items() if "layer.1" not in name}, tmp_path / "model.safetensors")
    with pytest.raises(TeacherError, match="missing"):
        load_text_teacher(tmp_path)


# A corpus


@pytest.fixture
def corpus(tmp_path):
    """a: timed words. b: a text without times. c: no transcript. d: skipped by the recogniser. e: broken."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abcd":
        wav = 0.1 * rng.standard_normal(16_000)
        wav[8000:12_800] = 0  # a pause from 0.5 to 0.8 s
        soundfile.write(folder / f"{name}.wav", wav, 16_000)
    (folder / "e.wav").write_text("no sound")
    with Transcripts(tmp_path / "t.jsonl", write=True) as out:
        out.add(key_of(folder / "a.wav"), said(("the", 0.1, 0.4), ("cat", 0.4, 1.0)))
        out.add(key_of(folder / "b.wav"), Transcript("the cat"))
        out.skip(key_of(folder / "d.wav"), Skip("no speech"))
    return folder


def key_of(path):
    return content_key(decode(path, 16_000))


def test_a_store_is_filled(corpus, teacher, bert, tmp_path):
    paths, seen = sorted(corpus.iterdir()), []
    store = FeatureStore.of(teacher, tmp_path / "features")
    report = compute_text(paths, Transcripts(tmp_path / "t.jsonl"), teacher, store, lambda *call: seen.append(call))
    assert (report.added, report.present, report.seconds) == (2, 0, 2.0) and seen[-1] == (5, 5)
    reasons = {path[-5]: reason for path, reason in report.skipped}
    assert reasons["c"] == "it has no transcript" and reasons["d"] == "it has no transcript (no speech)" and set(reasons) == set("cde")

    features, valid = store.read(key_of(corpus / "a.wav"), 0, 50)
    assert valid.nonzero().flatten().tolist() == [*range(5, 25), *range(40, 50)]  # without the pause in "cat"
    torch.testing.assert_close(features[45], teacher.features(said(("the", 0, 1), ("cat", 1, 2)), 32_000)[0][60], atol=1e-3, rtol=1e-3)
    features, valid = store.read(key_of(corpus / "b.wav"), 0, 50)
    assert valid.nonzero().flatten().tolist() == [*range(25), *range(40, 50)]  # spread over the voiced part
    assert not torch.equal(features[0], features[49])

    again = compute_text(paths, Transcripts(tmp_path / "t.jsonl"), teacher, FeatureStore.of(teacher, tmp_path / "features"))
    assert (again.added, again.present, len(again.skipped)) == (0, 2, 3)
    with pytest.raises(StoreError, match="another|not of"):
        compute_text(paths, Transcripts(tmp_path / "t.jsonl"), load_text_teacher(bert, 1), store)


def test_padded_needs_no_times_and_knows_no_pauses(corpus, bert, tmp_path):
    padded = load_text_teacher(bert, padded=True)
    store = FeatureStore.of(padded, tmp_path / "features")
    assert compute_text(sorted(corpus.iterdir()), Transcripts(tmp_path / "t.jsonl"), padded, store).added == 2
    assert store.read(key_of(corpus / "b.wav"), 0, 50)[1].tolist() == [True] * POSITIONS + [False] * 34


def test_pauses_are_long():
    voiced = np.ones(60, bool)
    voiced[:10] = voiced[20:29] = voiced[45:] = False  # 0.2 s, 0.18 s, 0.3 s
    assert pauses(voiced).nonzero()[0].tolist() == [*range(10), *range(45, 60)]
    assert pauses(np.zeros(12, bool)).all() and not pauses(np.ones(12, bool)).any()


# The verb


def test_codec_features_of_a_text_teacher(corpus, bert, tmp_path, capfd):
    (corpus / "manifest.json").write_text(json.dumps([{"path": "a.wav"}, {"path": "b.wav"}, {"path": "c.wav"}]))
    command = ["features", str(corpus), "--text-teacher", str(bert), "--out", str(tmp_path / "features")]
    assert cli.main([*command, "--transcripts", str(tmp_path / "t.jsonl")]) == 0
    out, err = capfd.readouterr()
    assert "2 files (2 s) added" in out and "1 left out" in out and "no transcript" in err
    assert FeatureStore.open(tmp_path / "features", "bert-mean").rows == 100
    assert cli.main([*command, "--transcripts", str(tmp_path / "t.jsonl"), "--padded"]) == 0
    assert FeatureStore.open(tmp_path / "features", "padded-bert").rows == 100
    assert cli.main([*command, "--transcripts", str(tmp_path / "none.jsonl")]) == 1
    assert "codec transcribe" in capfd.readouterr().err
    for wrong in (command, [*command, "--transcripts", "x", "--teacher", "y"], ["features", str(corpus), "--teacher", "x", "--out", "y", "--padded"]):
        with pytest.raises(SystemExit):
            cli.main(wrong)
