"""A teacher runs once over a corpus: what is added, present and skipped."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec.semantic import CallableTeacher, FeatureStore, compute, content_key
from codec.semantic.store_files import StoreError
from codec.training.data import decode


def loudness(wav):
    frames = wav.unflatten(1, (-1, 320))
    return torch.stack([frames.square().mean(2).sqrt(), frames.abs().amax(2)], 2)


@pytest.fixture
def corpus(tmp_path):
    """Three recordings, one of them twice, a silent one and one that is none."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, seconds, rate, level in [
        ("a", 1.0, 16_000, 0.1), ("b", 0.33, 48_000, 0.2), ("c", 0.01, 8_000, 0.1), ("silent", 1.0, 16_000, 1e-4),
    ]:
        soundfile.write(folder / f"{name}.wav", (level * rng.standard_normal(int(seconds * rate))).clip(-1, 1), rate)
    (folder / "again.wav").write_bytes((folder / "a.wav").read_bytes())
    (folder / "broken.wav").write_text("not a recording")
    return folder


def test_a_teacher_runs_once_over_a_corpus(corpus, tmp_path):
    calls = []
    teacher = CallableTeacher(lambda wav: calls.append(wav.shape) or loudness(wav), 50, 2)
    calls.clear()
    store, seen = FeatureStore.of(teacher, tmp_path / "features"), []
    paths = sorted(corpus.iterdir())
    report = compute(paths, teacher, store, lambda done, total: seen.append((done, total)))
    assert (report.added, report.present) == (3, 1) and report.seconds == pytest.approx(1.34, abs=0.01)
    assert [(Path(path).name, reason) for path, reason in report.skipped][1] == ("silent.wav", "it is silent")
    assert Path(report.skipped[0][0]).name == "broken.wav" and seen == [(n, 6) for n in range(1, 7)]
    assert len(calls) == 3
    samples = decode(corpus / "b.wav", 16_000)
    key = content_key(samples)
    assert key == hashlib.sha256(samples.tobytes()).hexdigest()
    expected = teacher.features(samples.astype(np.float32) / 32767)
    calls.clear()
    again = FeatureStore.of(teacher, tmp_path / "features")
    assert again.frames(key) == 17 == len(expected)
    assert torch.equal(again.read(key, 0, 17)[0], expected.half().float())
    (corpus / "b.wav").rename(corpus / "moved.wav")  # known by its content
    report = compute(sorted(corpus.iterdir()), teacher, again)
    assert (report.added, report.present, report.seconds) == (0, 4, 0) and not calls


def test_features_that_cannot_be_kept_are_skipped_with_a_reason(corpus, tmp_path):
    teacher = CallableTeacher(lambda wav: loudness(wav) * (math.inf if wav.shape[1] < 8000 else 1), 50, 2)
    report = compute([corpus / "a.wav", corpus / "b.wav"], teacher, FeatureStore.of(teacher, tmp_path))
    assert report.added == 1 and "float16 cannot keep them" in report.skipped[0][1]


def test_interrupted_it_keeps_what_it_had(corpus, tmp_path):
    class Stop(BaseException):
        pass

    def stopping(done, total):
        if done == 2:
            raise Stop

    teacher = CallableTeacher(loudness, 50, 2)
    with pytest.raises(Stop):
        compute([corpus / f"{name}.wav" for name in "abc"], teacher, FeatureStore.of(teacher, tmp_path), stopping)
    assert len(FeatureStore.of(teacher, tmp_path)) == 2


def test_a_store_of_another_teacher_is_refused(corpus, tmp_path):
    teacher, other = CallableTeacher(loudness, 50, 2), CallableTeacher(loudness, 50, 2, name="other")
    with pytest.raises(StoreError, match="holds features of other, not of callable"):
        compute([corpus / "a.wav"], teacher, FeatureStore.of(other, tmp_path))
