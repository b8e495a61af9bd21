"""`codec stream` as a user runs it: processes and pipes."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec import Tokens, hub
from codec.container import SYNC, TokReader, TokWriter
from codec.live import decode_live, encode_live

FRAME = 160


def pcm(samples: int, dtype: str = "<i2", seed: int = 0) -> bytes:
    wav = 0.2 * np.random.default_rng(seed).standard_normal(samples)
    return (np.rint(wav * 32768) if dtype == "<i2" else wav).astype(dtype).tobytes()


@pytest.fixture(scope="module")
def model(model_dir):
    return hub.load(model_dir)


class Dripping(io.BytesIO):
    """Gives its bytes in odd pieces."""

    def read1(self, size: int = -1) -> bytes:
        return super().read(min(size, 333))


def through(model, data: bytes, format: str, **options) -> tuple[bytes, bytes]:
    tok, out = io.BytesIO(), io.BytesIO()
    encode_live(model, Dripping(data), tok, format, **options)
    decode_live(model, TokReader(io.BytesIO(tok.getvalue())), out, format)
    return tok.getvalue(), out.getvalue()


@pytest.mark.parametrize("format, dtype", [("s16le", "<i2"), ("f32le", "<f4")])
@pytest.mark.parametrize("rate", [16_000, 44_100, 8_000])
@pytest.mark.parametrize("samples", [1, 159, 160, 161, 5000])
def test_the_stream_is_the_file(model, format, dtype, rate, samples):
    """Codes and samples are those of `encode` and `decode`, as many as went in."""
    data = pcm(samples, dtype)
    wav = np.frombuffer(data, dtype).astype(np.float32) / (32768 if format == "s16le" else 1)
    tok, out = through(model, data, format, sample_rate=rate)
    tokens = model.encode(wav, sample_rate=rate)
    assert torch.equal(Tokens.load(io.BytesIO(tok)).codes, tokens.codes)
    heard = model.decode(tokens)[0, 0].numpy()
    got = np.frombuffer(out, dtype)
    assert len(got) == samples
    if format == "s16le":
        heard = np.clip(np.rint(heard * 32768), -32768, 32767)
    assert np.abs(got - heard).max() <= (1 if format == "s16le" else 1e-5)


def test_fewer_codebooks_and_nothing_at_all(model):
    assert Tokens.load(io.BytesIO(through(model, pcm(999), "s16le", num_codebooks=2)[0])).num_codebooks == 2
    tok, out = through(model, b"", "s16le")
    assert out == b"" and Tokens.load(io.BytesIO(tok)).num_samples == (0,)


def test_a_model_without_delay_may_give_up_to_a_frame_more(tiny_seanet):
    for samples in (160, 161, 1000):
        out = through(tiny_seanet, pcm(samples), "s16le")[1]
        assert samples <= len(out) // 2 < samples + FRAME


def test_a_cut_stream_is_heard_as_far_as_it_goes(model):
    tok = through(model, pcm(5000, "<f4"), "f32le")[0]
    for size in (len(tok) - 3, len(tok) - 200):
        out = io.BytesIO()
        with pytest.raises(ValueError, match="ends without its end block, after 0.[23]. s"):
            decode_live(model, TokReader(io.BytesIO(tok[:size]), still_writing=True), out, "s16le")
        assert len(out.getvalue()) > 2 * 3000
    damaged = bytearray(tok)
    damaged[len(tok) // 2] ^= 1
    with pytest.raises(ValueError, match="is damaged"):
        decode_live(model, TokReader(io.BytesIO(bytes(damaged)), still_writing=True), io.BytesIO(), "s16le")


def test_what_cannot_be_decoded_live_is_refused(model, tiny_seanet):
    tok, stereo = through(tiny_seanet, pcm(500), "s16le")[0], io.BytesIO()
    with TokWriter(stereo, model.spec, 4, 16_000, 2) as writer:
        writer.finish(0)
    with pytest.raises(ValueError, match="load the model that made them"):
        decode_live(model, TokReader(io.BytesIO(tok)), io.BytesIO())
    with pytest.raises(ValueError, match="holds 2 channels"):
        decode_live(model, TokReader(io.BytesIO(stereo.getvalue())), io.BytesIO())


# Processes


def read_for(pipe, size: int, seconds: float) -> bytes:
    """At least `size` bytes of what comes within so many seconds."""
    data, until = b"", time.monotonic() + seconds
    while len(data) < size and time.monotonic() < until:
        if select.select([pipe], [], [], 0.1)[0]:
            piece = os.read(pipe.fileno(), 1 << 16)
            if not piece:
                break
            data += piece
    return data


@pytest.fixture
def pair(spawn, model_dir):
    """`codec stream encode | codec stream decode`, both ends of it."""
    encoding = spawn("stream", "encode", "--model", model_dir, stdin=subprocess.PIPE)
    decoding = spawn("stream", "decode", "--model", model_dir, stdin=encoding.stdout)
    encoding.stdout.close()
    yield encoding, decoding
    for process in (encoding, decoding):
        process.kill()
        process.wait()


def test_sound_comes_out_while_it_goes_in(pair, model):
    """Every frame, as soon as the frame after it is full; then as many samples as went in, and two lines on stderr."""
    encoding, decoding = pair
    data, heard = pcm(20 * FRAME + 55), b""
    for frame in range(20):
        encoding.stdin.write(data[2 * FRAME * frame : 2 * FRAME * (frame + 1)])
        encoding.stdin.flush()
        due = 2 * FRAME * (frame + 1) - 2 * FRAME  # the decoder's delay
        if len(heard) < due:
            heard += read_for(decoding.stdout, due - len(heard), 120 if frame == 1 else 20)
        assert len(heard) == due
    encoding.stdin.write(data[2 * FRAME * 20 :])
    encoding.stdin.close()
    heard += decoding.stdout.read()
    assert decoding.wait() == 0 and encoding.wait() == 0
    expected = model.decode(model.encode(np.frombuffer(data, "<i2").astype(np.float32) / 32768))[0, 0].numpy()
    assert np.abs(np.frombuffer(heard, "<i2") - np.clip(np.rint(expected * 32768), -32768, 32767)).max() <= 1
    assert encoding.stderr.read() == b"0.2034 s: 21 frames, 4 codebooks\n"
    assert decoding.stderr.read() == b"0.2034 s at 16000 Hz: 21 frames\n"


def test_a_listener_that_leaves_ends_the_stream_quietly(pair):
    encoding, decoding = pair
    data = pcm(FRAME * 10)
    encoding.stdin.write(data)
    encoding.stdin.flush()
    assert read_for(decoding.stdout, 1000, 120)
    decoding.stdout.close()
    with pytest.raises(BrokenPipeError):
        for _ in range(5000):
            encoding.stdin.write(data)
            encoding.stdin.flush()
    assert decoding.wait(60) == 141 and encoding.wait(60) == 141
    assert (encoding.stderr.read(), decoding.stderr.read()) == (b"", b"")


def test_ctrl_c_ends_a_recording_which_is_whole(spawn, model_dir, run, tmp_path):
    with open(tmp_path / "talk.tok", "wb") as file:
        process = spawn("stream", "encode", "--model", model_dir, stdin=subprocess.PIPE, stdout=file)
        data = pcm(10 * FRAME + 33)
        process.stdin.write(data[:1001])  # odd
        process.stdin.flush()
        until = time.monotonic() + 120
        while SYNC not in (tmp_path / "talk.tok").read_bytes():  # its first frames
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert process.stderr.read() == (b"note: the input ended inside a sample: 1 byte left out\n"
                                     b"0.03125 s: 4 frames, 4 codebooks\n")
    result = run("decode", "talk.tok", "talk.wav", "--model", model_dir)
    assert result.code == 0 and soundfile.info("talk.wav").frames == 500


def test_memory_stays_flat(spawn, model_dir):
    process = spawn("stream", "encode", "--model", model_dir, stdin=subprocess.PIPE)
    if not Path(f"/proc/{process.pid}/status").exists():
        pytest.skip("reads /proc")
    threading.Thread(target=process.stdout.read, daemon=True).start()
    data, sizes = pcm(16_000), []
    for seconds in (20, 200):
        for _ in range(seconds):
            process.stdin.write(data)
        process.stdin.flush()
        status = Path(f"/proc/{process.pid}/status").read_text()
        sizes.append(1024 * int(status.split("VmRSS:")[1].split()[0]))
    process.stdin.close()
    assert process.wait() == 0
    assert sizes[1] - sizes[0] < 20e6


@pytest.mark.parametrize("arguments, words", [
    (("decode", "--rate", "8000"), "--rate is for encoding"), (("decode", "--codebooks", "2"), "--codebooks is for encoding"),
    (("encode", "--format", "mp3"), "invalid choice"), ((), "direction"), (("encode", "--rate", "x"), "invalid int"),
])
def test_wrong_usage(run, arguments, words):
    result = run("stream", *arguments)
    assert result.code == 2 and words in result.err


def test_bad_input_is_one_line(spawn, model_dir):
    for arguments, data, words in (
        (("encode", "--format", "f32le"), np.full(9, np.nan, "<f4").tobytes(), b"NaN or infinite"),
        (("decode",), b"no tokens", b"is not a .tok file"),
    ):
        process = spawn("stream", *arguments, "--model", model_dir, stdin=subprocess.PIPE)
        _, err = process.communicate(data)
        assert process.returncode == 1 and words in err and err.count(b"\n") == 1, err
