"""The page in a real browser, whose microphone plays speech: what it plays is what the codec makes of it."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import numpy as np
import pytest
import soundfile

import codec
from codec.audio import resample

pytest.importorskip("aiohttp")
from browser import BINARY, browser  # noqa: E402
from clients import serving  # noqa: E402

SPEECH = Path(__file__).parents[2] / "examples/speech.flac"
PACKED = "btoa(Array.from(new Uint8Array(demo.%s.samples().buffer), byte => String.fromCharCode(byte)).join(''))"


def bands(wav: np.ndarray) -> np.ndarray:
    """Energies (32, frames) of bands of 16 kHz audio in nepers, 20 ms apart."""
    frames = np.lib.stride_tricks.sliding_window_view(wav, 640)[::320] * np.hanning(640)
    return np.log((np.abs(np.fft.rfft(frames)[:, 1:]) ** 2).reshape(len(frames), 32, 10).sum(2) + 1e-3).T


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of energies over time and bands."""
    return float(np.corrcoef(bands(one).ravel(), bands(other).ravel())[0, 1])


async def seen(address: str, microphone: Path, pictures: Path) -> dict:
    async with browser(microphone) as tab:
        await tab.size(390, 844)
        await tab.call("Page.navigate", url=address)
        await tab.until("typeof demo !== 'undefined' && demo.models.length")
        await tab.value("keep = 600, $('echo').checked = false, $('quality').value = 8, $('talk').click()")
        await tab.until("demo.state === 'on'")
        await tab.until("demo.sent.total > 16000 && demo.heard.total > 8000")
        await tab.value("$('quality').value = 2, chooseQuality()")
        await tab.until("demo.sent.total > 48000 && demo.played > 0.01 && $('bitrate').textContent === '1.00'")
        wide = await tab.value("document.documentElement.scrollWidth")
        figures = {name: await tab.value(f"$('{name}').textContent") for name in ("bitrate", "trip", "buffer", "underruns")}
        await tab.value("figures(), scopes.in.draw(), scopes.out.draw()")
        lit = await tab.value("""['in', 'out'].map(name => $(name).getContext('2d').getImageData(0, 0, 700, 256).data
            .filter((value, i) => i % 4 === 0 && value > 100).length)""")
        await tab.picture(pictures / "phone.png")
        await tab.value("$('talk').click()")
        await tab.until("demo.state === 'idle'")
        sound = {name: np.frombuffer(base64.b64decode(await tab.value(PACKED % name)), "<f4").copy() for name in ("sent", "heard")}
        levels = await tab.value("[scopes.in.level, scopes.out.level]")
        return {"wide": wide, "lit": lit, "errors": tab.errors, "status": await tab.value("$('status').textContent"),
                "levels": levels, **figures, **sound}


@pytest.mark.skipif(BINARY is None, reason="needs chromium or chrome")
def test_speech_goes_through_the_page_and_comes_back(tmp_path):
    wav, rate = soundfile.read(SPEECH, dtype="float32")
    wav = 0.6 * wav / np.abs(wav).max()
    soundfile.write(tmp_path / "microphone.wav", wav, rate, subtype="PCM_16")
    model = codec.load("speech-16k")

    async def main():
        async with serving(model) as site:
            result = await seen(site.address, tmp_path / "microphone.wav", tmp_path)
            await site.until(0)
            return result

    result = asyncio.run(main())
    sent, heard = result["sent"], result["heard"]
    assert result["errors"] == [] and "Compare" in result["status"]
    assert len(sent) == len(heard) > 48_000  # all of it came back

    # What was sent is the file that the microphone plays, at some place of it ...
    speech = resample(wav[None], rate, 16_000)[0]
    speech = np.concatenate([speech, speech])
    shift = int(np.argmax(np.correlate(speech, sent[8000:24_000], "valid"))) if rate == 16_000 else None
    if shift is not None:
        assert np.corrcoef(speech[shift : shift + 16_000], sent[8000:24_000])[0, 1] > 0.95
    # ... the first second of what was heard is what the model decodes from all codebooks, up to 16 bits ...
    expected = model.decode(model.encode(sent))[0, 0].numpy()
    np.testing.assert_allclose(heard[:8000], expected[:8000].clip(-1, 1), rtol=0, atol=1 / 30_000)
    # ... and all of it sounds like what was said, although its end has only two codebooks.
    assert likeness(sent, heard) > 0.8 > likeness(sent, np.roll(heard, 16_000))
    assert min(result["lit"]) > 2000 and result["wide"] == 390 and result["bitrate"] == "1.00"
    assert int(result["trip"]) > 0 and int(result["buffer"]) >= 0 and int(result["underruns"]) >= 0
