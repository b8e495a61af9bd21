"""Crops and the rows of features that belong to them."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from codec.training.data import DataError, SpeechCrops, decode
from codec.training.targets import TargetedCrops

RATE, FRAME = 16_000, 320


class Rows:
    """A store whose row i of a file holds (number of the file, i); rows that are multiples of 10 are not valid."""

    dim = 2

    def __init__(self, numbers: dict[str, int], frame_rate: float, lengths: dict[str, int]):
        self.numbers, self.frame_rate, self.lengths = numbers, frame_rate, lengths

    def __contains__(self, key):
        return key in self.numbers

    def read(self, key, start, frames):
        assert start >= 0
        index = torch.arange(start, start + frames)
        features = torch.stack([torch.full_like(index, self.numbers[key]), index], 1).float()
        valid = (index < self.lengths[key]) & (index % 10 != 0)
        return features * valid[:, None], valid


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files whose samples tell the file and the place."""
    path = tmp_path_factory.mktemp("corpus")
    for number in range(3):
        samples = 0.25 * (number + 1) + 1e-5 * np.arange(RATE)
        soundfile.write(path / f"{number}.wav", samples, RATE, subtype="PCM_16")
    return path


def crops(folder, cache, **options):
    return SpeechCrops(folder, RATE, 10 * FRAME, 8, cache=cache, augment=False, frame_samples=FRAME, **options)


def store(folder, plain, frame_rate, files=range(3)):
    keys = plain.corpus.content_keys()
    assert len(set(keys)) == 3
    return Rows({keys[n]: n for n in files}, frame_rate, {keys[n]: int(frame_rate) for n in files})


def place(crop) -> tuple[int, int]:
    """Number of the file and first frame of a crop."""
    first = float(crop[0, 0])
    number = int(first / 0.25 + 1e-3) - 1
    samples = (first - 0.25 * (number + 1)) / 1e-5
    assert abs(samples / FRAME - round(samples / FRAME)) < 0.03, "a crop starts on a frame's border"
    return number, round(samples / FRAME)


@pytest.mark.parametrize("shift", [0, 2])
def test_rows_are_those_of_the_crop(folder, tmp_path, shift):
    plain = crops(folder, tmp_path)
    both = TargetedCrops(plain, [store(folder, plain, 50.0)], [shift], frame_rate=50.0)
    seen = set()
    for step in range(4):
        wav, ((features, valid),) = both.batch(step)
        assert features.shape == (8, 10, 2) and valid.shape == (8, 10)
        assert torch.equal(wav, plain.batch(step))
        for crop, rows, there in zip(wav, features, valid):
            number, first = place(crop)
            index = torch.arange(first - shift, first - shift + 10)
            assert torch.equal(there, (index > 0) & (index % 10 != 0) & (index < 50))
            assert torch.equal(rows[there][:, 1].long(), index[there]) and (rows[there][:, 0] == number).all()
            assert rows[~there].abs().sum() == 0
            seen.add((number, first))
    assert len(seen) > 15


@pytest.mark.parametrize("frame_rate", [200.0, 25.0, 75.0])
def test_rates_are_brought_together(folder, tmp_path, frame_rate):
    """Of several rows the mean of the valid ones; of a row over several frames that row."""
    plain = crops(folder, tmp_path)
    both = TargetedCrops(plain, [store(folder, plain, frame_rate)], [0], frame_rate=50.0)
    wav, ((features, valid),) = both.batch(0)
    ratio = frame_rate / 50
    for crop, rows, there in zip(wav, features, valid):
        number, first = place(crop)
        for frame in range(10):
            low, high = np.floor((first + frame) * ratio), np.ceil((first + frame + 1) * ratio)
            index = [i for i in range(int(low), max(int(high), int(low) + 1)) if i % 10 and i < frame_rate]
            assert bool(there[frame]) == bool(index)
            if index:
                torch.testing.assert_close(rows[frame], torch.tensor([float(number), float(np.mean(index))]))


def test_files_without_features_have_no_valid_frame(folder, tmp_path):
    plain = crops(folder, tmp_path)
    with pytest.warns(UserWarning, match="2 of 3 files of the training data have no features"):
        both = TargetedCrops(plain, [store(folder, plain, 50.0, files=[1])], [0], frame_rate=50.0)
    wav, ((features, valid),) = both.batch(0)
    for crop, there in zip(wav, valid):
        assert there.any() == (place(crop)[0] == 1)
    with pytest.raises(DataError, match="run codec features over the same files"):
        TargetedCrops(plain, [store(folder, plain, 50.0, files=[])], [0], frame_rate=50.0)


def test_keys_are_of_the_content_at_16_khz_at_any_rate_of_the_codec(folder, tmp_path):
    import hashlib

    expected = [hashlib.sha256(decode(folder / f"{n}.wav", 16_000).tobytes()).hexdigest() for n in range(3)]
    assert crops(folder, tmp_path).corpus.content_keys() == expected
    other = SpeechCrops(folder, 24_000, 4800, 2, cache=tmp_path)
    assert other.corpus.content_keys() == expected == other.corpus.content_keys()
