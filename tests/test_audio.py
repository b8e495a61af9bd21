"""Audio files, pipes and resampling."""

from __future__ import annotations

import errno
import gc
import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
import soundfile

from codec import audio
from codec.atomic import Output, WriteError
from codec.audio import AudioError, AudioReader, AudioWriter, LostBand, Resampler, ogg, resample


def sound(samples=16000, channels=2, rate=16000, seed=0):
    """Tones and a little noise, (channels, samples), below full scale."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    tones = np.stack([np.sin(2 * np.pi * 220 * (c + 1) * time) for c in range(channels)])
    return (0.4 * tones + 0.05 * rng.standard_normal((channels, samples))).astype(np.float32)


def read(source, size=audio.BLOCK):
    with AudioReader(source) as reader:
        return np.concatenate(list(reader.blocks(size)), axis=1), reader


FILES = [
    ("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"),
    ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"),
    ("AIFF", "FLOAT"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("NIST", "PCM_16"),
]


def encoded(container, subtype, wav=None, rate=16000):
    file = io.BytesIO()
    soundfile.write(file, (sound() if wav is None else wav).T, rate, format=container, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("container, subtype", FILES)
def test_reads_what_soundfile_reads_in_any_blocks(container, subtype, tmp_path):
    path = tmp_path / "sound"
    path.write_bytes(encoded(container, subtype))
    expected, rate = soundfile.read(path, dtype="float32", always_2d=True)
    wav, reader = read(path)
    assert wav.dtype == np.float32 and wav.shape == expected.T.shape
    assert np.abs(wav - expected.T).max() <= (1e-6 if container == "MP3" else 0)  # soundfile seeks in between
    assert (reader.sample_rate, reader.channels) == (rate, 2)
    assert reader.num_samples == (None if container == "OGG" else len(expected))
    for size in (100, 999, 1152, 16000):
        assert np.array_equal(read(path, size)[0], wav)
    assert np.array_equal(read(io.BytesIO(path.read_bytes()))[0], wav)


@pytest.mark.parametrize("container, subtype", [f for f in FILES if f[0] != "NIST"])
@pytest.mark.parametrize("part", [0.97, 0.6, 0.1])
def test_cut_files_are_refused(container, subtype, part, tmp_path, capfd):
    path = tmp_path / "sound"
    data = encoded(container, subtype)
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(AudioError) as caught:
        read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_cut_file_says_how_much_is_there(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(encoded("WAV", "PCM_16")[:-1000])
    with pytest.raises(AudioError, match="63000 of 64000 bytes"):
        AudioReader(path)


@pytest.mark.parametrize("riff, data", [
    (0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (36, 0), (0, 0xFFFFFFFF), (0x7FFFFFFF, 0x7FFFFFFF - 36), (0x80000024, 0x80000000),
])
def test_wav_from_a_pipe_has_no_length(riff, data, tmp_path):
    file = bytearray(encoded("WAV", "PCM_16"))
    file[4:8], file[40:44] = struct.pack("<I", riff), struct.pack("<I", data)
    (tmp_path / "x.wav").write_bytes(file)
    for source in (tmp_path / "x.wav", io.BytesIO(bytes(file))):
        wav, reader = read(source)
        assert reader.num_samples == 16000 and np.array_equal(wav, read(io.BytesIO(encoded("WAV", "PCM_16")))[0])


def test_au_and_flac_without_a_length(tmp_path):
    au = bytearray(encoded("AU", "PCM_16"))
    au[8:12] = b"\xff" * 4
    assert read(io.BytesIO(bytes(au)))[0].shape == (2, 16000)
    flac = bytearray(encoded("FLAC", "PCM_16"))
    flac[21] &= 0xF0  # STREAMINFO's number of samples, 36 bits
    flac[22:26] = bytes(4)
    wav, reader = read(io.BytesIO(bytes(flac)))
    assert reader.num_samples is None and wav.shape == (2, 16000)


def mp3_without_its_tag():
    """Loud after quiet with a variable bit rate, so that an estimate from the start is wrong."""
    file = io.BytesIO()
    wav = sound(64000, 1) * np.repeat([0, 1], 32000)
    with soundfile.SoundFile(file, "w", 16000, 1, "MPEG_LAYER_III", format="MP3", bitrate_mode="VARIABLE") as out:
        out.write(wav.T)
    data = file.getvalue()
    at = max(data.find(b"Xing"), data.find(b"Info"))
    second = data.find(data[:2], at)  # the tag has a frame of its own
    return data[second:]


def test_mp3_without_a_length_is_read_to_its_end(tmp_path):
    path = tmp_path / "x.mp3"
    path.write_bytes(b"ID3\x04\0\0\0\0\0\x05hello" + mp3_without_its_tag())
    wav, reader = read(path)
    assert reader.num_samples is None and abs(wav.shape[1] - 64000) < 3000
    threads = threading.active_count()
    with AudioReader(path) as reader:
        next(reader.blocks(100))  # leaving early stops the feeder
    assert threading.active_count() == threads


def feed(into, data):
    with open(into, "wb") as pipe:
        pipe.write(data)


def test_reads_through_a_pipe(tmp_path):
    for container, subtype in [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]:
        data = encoded(container, subtype)
        out, into = os.pipe()
        feeder = threading.Thread(target=feed, args=(into, data))
        feeder.start()
        with open(out, "rb") as pipe:
            wav, _ = read(pipe)
        feeder.join()
        assert np.array_equal(wav, read(io.BytesIO(data))[0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_reads_a_named_pipe(tmp_path):
    os.mkfifo(tmp_path / "x.wav")
    feeder = threading.Thread(target=lambda: (tmp_path / "x.wav").write_bytes(encoded("WAV", "PCM_16")))
    feeder.start()
    wav, _ = read(tmp_path / "x.wav")
    feeder.join()
    assert wav.shape == (2, 16000)


@pytest.mark.parametrize("data, words", [
    (b"", "is empty"), (b"hello, this is text\n" * 50, "not audio"), (b"RIFF", "not audio"), (b".snd\0\0", "not audio"),
    (np.random.default_rng(1).bytes(5000), "not audio"),
    (encoded("WAV", "PCM_16", np.zeros((1, 0))), "no samples"),
    (encoded("WAV", "FLOAT", np.array([[0, 0, np.nan, 0]])), "NaN or infinite"),
    (encoded("WAV", "FLOAT", np.array([[0.0] * 16000 + [np.inf]])), "1.000 s"),
    (encoded("WAV", "DOUBLE", np.array([[0, 1e300]])), "NaN or infinite"),
    (encoded("WAV", "PCM_16", np.zeros((65, 10))), "65 channels"),
    (encoded("WAV", "PCM_16", np.zeros((1, 10)), 999), "999 Hz"),
    (encoded("WAV", "PCM_16", np.zeros((1, 10)), 800_000), "800000 Hz"),
], ids=range(12))
def test_bad_files_are_named_on_one_line(data, words, tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(data)
    for source in (path, io.BytesIO(data)):
        with pytest.raises(AudioError, match=words) as caught:
            read(source)
        assert "\n" not in str(caught.value)


def test_a_rate_of_zero_is_refused(tmp_path):
    data = bytearray(encoded("WAV", "PCM_16"))
    data[24:28] = bytes(4)
    with pytest.raises(AudioError):
        read(io.BytesIO(bytes(data)))


def test_missing_files_folders_and_raw_samples(tmp_path):
    with pytest.raises(AudioError, match="no such file"):
        AudioReader(tmp_path / "no.wav")
    with pytest.raises(AudioError, match="folder"):
        AudioReader(tmp_path)
    (tmp_path / "x.raw").write_bytes(bytes(1000))
    with pytest.raises(AudioError, match="not audio"):
        AudioReader(tmp_path / "x.raw")


def test_a_page_lost_from_an_ogg():
    data = encoded("OGG", "VORBIS", sound(160000))
    pages = [at for at in range(len(data)) if data.startswith(b"OggS", at)]
    middle = len(pages) // 2
    assert middle > 3
    with pytest.raises(AudioError, match="damaged after"):
        read(io.BytesIO(data[: pages[middle]] + data[pages[middle + 1] :]))


def test_opus_whose_pages_miscount_samples():
    """As ffmpeg writes it of sources with jumps in time: libsndfile takes that for damage."""
    data = encoded("OGG", "OPUS", sound(160000))
    pages = list(ogg._pages(io.BytesIO(data)))
    assert len(pages) > 6 and ogg.steady(io.BytesIO(data)) is None
    page = pages[len(pages) // 2]
    end = page.start + len(page.packed(0))
    bad = data[: page.start] + page.packed(page.head[3] + 488) + data[end:]
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(io.BytesIO(bad))
    assert np.array_equal(read(io.BytesIO(bad))[0], read(io.BytesIO(data))[0])

    damaged = bytearray(bad)
    damaged[end - 10] ^= 1
    lost = bad[:end] + bad[end + len(pages[len(pages) // 2 + 1].packed(0)) :]
    for broken in (bytes(damaged), lost):
        assert ogg.steady(io.BytesIO(broken)) is None
        with pytest.raises(AudioError, match="damaged after"):
            read(io.BytesIO(broken))


def recounted(data, change) -> bytes:
    """An Opus file in Ogg, the granule position of each page with sound changed by its number."""
    pages = enumerate(ogg._pages(io.BytesIO(data)))
    return b"".join(page.packed(page.head[3] + (change(number) if number > 1 else 0)) for number, page in pages)


def test_opus_that_starts_late_ends_where_its_last_page_says():
    """As in a recording of a live stream."""
    data = encoded("OGG", "OPUS", sound(160000))
    late = recounted(data, lambda number: 123_456_789)
    assert np.array_equal(read(io.BytesIO(late))[0], read(io.BytesIO(data))[0])


def test_opus_whose_page_before_the_last_counts_too_much_keeps_its_end():
    data = encoded("OGG", "OPUS", sound(160000))
    pages = len(list(ogg._pages(io.BytesIO(data))))
    bad = recounted(data, lambda number: 488 * (number == pages - 2))
    assert np.array_equal(read(io.BytesIO(bad))[0], read(io.BytesIO(data))[0])


def test_opus_whose_pages_miscount_leaves_no_file_open():
    bad = recounted(encoded("OGG", "OPUS", sound(160000)), lambda number: 488 * (number == 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read(io.BytesIO(bad))
        gc.collect()
    assert not [warning for warning in caught if warning.category is ResourceWarning]


def test_of_long_packets_only_the_beginning_is_kept():
    """A picture among the tags: together they took time that grew with the square of their size."""
    page = ogg.Page(0, (), bytes([255] * 255), b"OpusTags" + bytes(255 * 255))
    assert ogg._packets(page, b"") == ([], b"OpusTags")
    assert ogg._packets(ogg.Page(0, (), bytes([1, 3, 0]), b"abcd"), b"OpusTags") == ([b"OpusTags", b"bcd", b""], b"")


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_a_changed_byte_anywhere_in_an_ogg_is_noticed(subtype):
    """libsndfile leaves a page out whose checksum is wrong, at the start and at the end of a file without a word."""
    data = encoded("OGG", subtype, sound(160000, 1))
    for at in range(0, len(data), len(data) // 60):
        damaged = bytearray(data)
        damaged[at] ^= 32
        with pytest.raises(AudioError):
            read(io.BytesIO(bytes(damaged)))


def test_aiff_from_a_pipe_has_no_length():
    data = bytearray(encoded("AIFF", "PCM_16"))
    at = data.find(b"SSND")
    data[4:8], data[at + 4 : at + 8] = struct.pack(">I", 0x7F000050), struct.pack(">I", 0x7F000008)
    assert read(io.BytesIO(bytes(data)))[0].shape == (2, 16000)


def test_damage_in_the_middle_of_a_flac():
    data = bytearray(encoded("FLAC", "PCM_16", sound(160000, 1)))
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    with pytest.raises(AudioError, match="damaged after"):
        read(io.BytesIO(bytes(data)))


def test_headers_with_noise_raise_nothing_else():
    rng = np.random.default_rng(0)
    for container in ("WAV", "W64", "RF64", "AIFF", "AU"):
        data = encoded(container, "PCM_16", sound(200, 1))
        for _ in range(60):
            damaged = bytearray(data)
            for at in rng.integers(0, 110, 3):
                damaged[at] = rng.integers(256)
            try:
                read(io.BytesIO(bytes(damaged)))
            except AudioError as error:
                assert "\n" not in str(error)


# Writing


@pytest.mark.parametrize("extension, rate, channels, error", [
    ("wav", 11025, 8, 2**-15), ("flac", 96000, 8, 2**-15), ("aiff", 44100, 3, 2**-15), ("au", 8000, 1, 2**-15),
    ("caf", 48000, 2, 2**-15), ("w64", 22050, 2, 2**-15), ("rf64", 44100, 2, 2**-15), ("ogg", 44100, 2, 0.3),
    ("mp3", 44100, 2, 0.3), ("opus", 48000, 1, 0.3), ("WAV", 8000, 1, 2**-15),
])
def test_writes_many_formats(extension, rate, channels, error, tmp_path):
    path, wav = tmp_path / f"x.{extension}", sound(rate, channels, rate)
    with AudioWriter(path, rate, channels) as writer:
        for part in np.split(wav, [0, 1, 1000, 7000], axis=1):
            writer.write(part)
    got, reader = read(path)
    assert reader.sample_rate == rate and got.shape == wav.shape
    assert np.abs(got - wav)[:, rate // 10 : -rate // 10].max() <= error
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("subtype, error", [("PCM_16", 2**-16), ("PCM_24", 2**-24), ("FLOAT", 0), ("PCM_32", 2**-24),
                                            ("PCM_U8", 2**-7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_wav_codings(subtype, error, channels, tmp_path):
    wav = sound(999, channels)
    with AudioWriter(tmp_path / "x.wav", 16000, channels, subtype=subtype) as writer:
        writer.write(wav)
    got, _ = read(tmp_path / "x.wav")
    assert got.shape == wav.shape and np.abs(got - wav).max() <= error
    assert soundfile.info(tmp_path / "x.wav").subtype == subtype


def test_sixteen_bits_come_back_exactly(tmp_path):
    wav = np.arange(-32768, 32768, dtype=np.float32)[None] / 32768
    for name in ("x.wav", "x.flac"):
        with AudioWriter(tmp_path / name, 16000, 1) as writer:
            writer.write(wav)
        assert np.array_equal(read(tmp_path / name)[0], wav)


@pytest.mark.parametrize("extension, subtype", [("wav", None), ("wav", "PCM_24"), ("wav", "PCM_32"), ("flac", None),
                                                ("aiff", None), ("flac", "PCM_24")])
def test_overload_is_clipped_not_wrapped(extension, subtype, tmp_path):
    path = tmp_path / f"x.{extension}"
    with AudioWriter(path, 16000, 1, subtype=subtype) as writer:
        writer.write(np.array([[0.5, 1.0, 1.7, np.inf, -1.0, -9.0]]))
    got, _ = read(path)
    assert got[0, 0] == 0.5 and (got[0, 1:4] > 0.999).all() and (got[0, 4:] <= -0.999).all()


def test_float_files_keep_overload(tmp_path):
    with AudioWriter(tmp_path / "x.wav", 16000, 1, subtype="FLOAT") as writer:
        writer.write(np.array([[1.5, -2.0]]))
    assert read(tmp_path / "x.wav")[0].tolist() == [[1.5, -2.0]]


@pytest.mark.parametrize("extension, rate, channels, words", [
    ("mp3", 16000, 3, "3 channels"), ("mp3", 96000, 1, "96000 Hz"), ("opus", 44100, 1, "44100 Hz"),
    ("flac", 16000, 9, "9 channels"), ("flac", 700_000, 1, "700000 Hz"), ("xyz", 16000, 1, "choose one of"),
    ("wav", 0, 1, "0 Hz"), ("wav", 16000, 0, "0 channels"), ("wav", 16000, 65, "65 channels"),
    ("ogg", 700_000, 1, "700000 Hz"), ("mp3", 44101, 1, "44101 Hz"),
])
def test_what_a_format_cannot_hold(extension, rate, channels, words, tmp_path, capfd):
    with pytest.raises(AudioError, match=words) as caught:
        with AudioWriter(tmp_path / f"x.{extension}", rate, channels) as writer:
            writer.write(np.zeros((channels, 1000)))
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == [] and capfd.readouterr().err == ""


def test_samples_that_do_not_fit(tmp_path):
    for wav in (np.zeros((1, 5)), np.zeros(5), np.full((2, 3), np.nan)):
        with pytest.raises(AudioError):
            with AudioWriter(tmp_path / "x.wav", 16000, 2) as writer:
                writer.write(wav)
    assert os.listdir(tmp_path) == []


class Pipe(io.RawIOBase):
    """A binary output that cannot seek, and takes little at a time."""

    def __init__(self):
        self.data = b""

    def writable(self):
        return True

    def write(self, data):
        self.data += bytes(data[:1000])
        return min(1000, len(data))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_wav_through_a_pipe(subtype, tmp_path):
    pipe, wav = Pipe(), sound(16001, 3)
    with AudioWriter(pipe, 16000, 3, subtype=subtype) as writer:
        writer.write(wav)
        writer.close()
    (tmp_path / "x.wav").write_bytes(pipe.data)
    got = soundfile.read(tmp_path / "x.wav", dtype="float32")[0].T
    assert np.abs(got - wav).max() < 2**-15 and np.array_equal(read(tmp_path / "x.wav")[0], got)
    with pytest.raises(AudioError, match="pipe takes WAV"):
        AudioWriter(Pipe(), 16000, 1, format="flac")


def test_standard_input_and_output(tmp_path):
    script = "from codec.audio import *\nr = AudioReader('-'); w = AudioWriter('-', r.sample_rate, r.channels)\n"
    script += "for b in r.blocks(): w.write(b)\nw.close()"
    data = encoded("WAV", "PCM_16")
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    assert np.array_equal(read(io.BytesIO(done.stdout))[0], read(io.BytesIO(data))[0])


def test_wav_over_four_gigabytes_is_rf64(tmp_path):
    path = tmp_path / "x.wav"
    with AudioWriter(path, 48000, 2) as writer:
        writer.write(sound(100))
        size = 5 << 30
        writer._output.seek(size, os.SEEK_CUR)  # a hole in the file instead of five gigabytes
        writer._bytes += size
        writer.write(sound(100))
    info = soundfile.info(path)
    assert info.format == "RF64" and info.frames == 200 + (5 << 28)
    with AudioReader(path) as reader:
        assert reader.num_samples == info.frames
    os.truncate(path, 1 << 30)
    with pytest.raises(AudioError, match="cut short"):
        AudioReader(path)


def test_a_failure_leaves_nothing(tmp_path):
    for name in ("x.wav", "x.flac", "x.mp3", "x.ogg"):
        path = tmp_path / name
        path.write_bytes(b"precious")
        with pytest.raises(RuntimeError):
            with AudioWriter(path, 16000, 1) as writer:
                writer.write(sound(16000, 1))
                raise RuntimeError
        assert path.read_bytes() == b"precious"
    assert len(os.listdir(tmp_path)) == 4


def test_unwritable_places(tmp_path):
    for place in (tmp_path / "no" / "x.wav", tmp_path, tmp_path / "no" / "x.flac"):
        with pytest.raises(AudioError, match="cannot write") as caught:
            AudioWriter(place, 16000, 1, format="wav")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "aiff", "mp3"])
def test_a_disk_that_fills_up(extension, tmp_path, monkeypatch, capfd):
    class Full:
        room = 20_000

        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, data):
            if self._file.tell() + len(data) > self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(data)

    opened = Output._open

    def open_full(self, path):
        opened(self, path)
        self._file = Full(self._file)

    monkeypatch.setattr(Output, "_open", open_full)
    noise = np.random.default_rng(0).uniform(-1, 1, (1, 200_000)).astype(np.float32)
    with pytest.raises(AudioError, match="disk is full"):
        with AudioWriter(tmp_path / f"x.{extension}", 16000, 1) as writer:
            writer.write(noise)
    assert os.listdir(tmp_path) == [] and capfd.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_devices_stay_devices():
    with pytest.raises(AudioError, match="disk is full"):
        with AudioWriter("/dev/full", 16000, 1) as writer:
            writer.write(sound(100_000, 1))
    with AudioWriter("/dev/null", 16000, 1) as writer:
        writer.write(sound(100_000, 1))
    assert not os.path.isfile("/dev/full") and not os.path.isfile("/dev/null")


def test_a_pipe_whose_reader_is_gone():
    out, into = os.pipe()
    os.close(out)
    with open(into, "wb", buffering=0) as pipe, pytest.raises(WriteError, match="reader of the pipe has gone"):
        Output(pipe).write(b"x" * 10)


# Resampling

RATES = [(r, 16000) for r in (8000, 11025, 12000, 22050, 24000, 32000, 44100, 48000, 96000, 16001)]
RATES += [(to, rate) for rate, to in RATES]


@pytest.mark.parametrize("from_rate, to_rate", RATES)
def test_chunks_change_nothing(from_rate, to_rate):
    wav = sound(5003, 2, from_rate)
    whole = resample(wav, from_rate, to_rate)
    assert whole.shape == (2, -(-5003 * to_rate // from_rate)) and whole.dtype == np.float32
    for size in (1, 7, 160, 1000):
        resampler = Resampler(from_rate, to_rate, 2)
        parts = [resampler.process(wav[:, i : i + size]) for i in range(0, 5003, size)]
        assert np.array_equal(np.concatenate([*parts, resampler.flush()], axis=1), whole)
    assert np.array_equal(resample(wav[1:], from_rate, to_rate), whole[1:])  # a channel alone


@pytest.mark.parametrize("from_rate, to_rate", [*RATES, (768_000, 1000), (1000, 768_000), (16000, 16000)])
def test_the_length_is_exact(from_rate, to_rate):
    for samples in (0, 1, 2, 3, 17, 500, 501):
        assert resample(np.ones((1, samples)), from_rate, to_rate).shape[1] == -(-samples * to_rate // from_rate)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_a_tone_stays_where_it_is(rate):
    time = np.arange(rate) / rate
    got = resample(np.sin(2 * np.pi * 440 * time)[None], rate, 16000)[0]
    assert np.abs(got - np.sin(2 * np.pi * 440 * np.arange(16000) / 16000))[200:-200].max() < 1e-4


def test_equal_rates_pass_untouched():
    wav = sound(100)
    assert np.array_equal(resample(wav, 44100, 44100), wav)


def test_resampling_refuses_what_it_cannot_do():
    for rates in ((0, 16000), (16000, 0), (16000, -5), (10**9, 16000)):
        with pytest.raises(AudioError):
            Resampler(*rates, 1)
    with pytest.raises(AudioError, match="shape"):
        Resampler(8000, 16000, 2).process(np.zeros((1, 5)))


# The note


def lost_band(wav, rate):
    band, resampler = LostBand(rate, 16000, "speech-16k"), Resampler(rate, 16000, len(wav))
    for start in range(0, wav.shape[1], 1000):
        part = wav[:, start : start + 1000]
        band.update(part, resampler.process(part))
    band.update(wav[:, :0], resampler.flush())
    return band


def test_energy_above_the_band_is_noted():
    time = np.arange(88200) / 44100
    low, high = np.sin(2 * np.pi * 1000 * time)[None], np.sin(2 * np.pi * 12000 * time)[None]
    band = lost_band(low + 0.5 * high, 44100)
    assert abs(band.lost - 0.2) < 0.005
    assert band.note() == "note: 20 % of the energy lies above 8 kHz, which speech-16k does not code"
    assert lost_band(low, 44100).note() is None and lost_band(0 * low, 44100).note() is None
    assert lost_band(low, 16000).note() is None and lost_band(low, 8000).note() is None
    assert lost_band(high, 44100).lost > 0.999


# Memory


def test_memory_does_not_grow_with_length(tmp_path):
    def peak(minutes):
        tracemalloc.start()
        resampler = Resampler(16000, 24000, 1)
        with AudioWriter(tmp_path / "x.wav", 24000, 1) as writer:
            for _ in range(minutes * 60):
                writer.write(resampler.process(np.zeros((1, 16000), np.float32)))
            writer.write(resampler.flush())
        with AudioReader(tmp_path / "x.wav") as reader:
            assert sum(block.shape[1] for block in reader.blocks()) == minutes * 60 * 24000 == reader.num_samples
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1)
    assert peak(10) < 1.1 * peak(1)
