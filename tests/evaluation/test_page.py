"""The page of a sweep: complete in itself, right in its figures, and it works in a browser, on a phone too."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import hub
from codec.evaluation.page import curves, pictures
from codec.evaluation.page.curves import Point
from codec.evaluation.sweep.run import sweep

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def out(tmp_path_factory, tiny_model) -> Path:
    """A report of two models with a name that must be escaped, and a broken recording."""
    folder = tmp_path_factory.mktemp("page")
    hub.save(tiny_model, folder / "a" / "tiny")
    hub.save(tiny_model, folder / "b" / "<b>&tiny")
    (folder / "data").mkdir()
    for number in range(3):
        wav = 0.1 * np.random.default_rng(number).standard_normal(8000 + 160 * number)
        soundfile.write(folder / "data" / f"{number}.wav", wav, 16_000)
    (folder / "data" / "broken.wav").write_text("no audio")
    sweep(folder / "data", [str(folder / "a" / "tiny"), str(folder / "b" / "<b>&tiny")], folder / "out", [0.5, 1, 2],
          ["si-sdr", "mel", "stft"], jobs=1)
    return folder / "out"


@pytest.fixture(scope="module")
def page(out) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


def test_it_needs_nothing_else(page):
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "http" not in re.sub(r'data-flac="[^"]*"|base64,[^"]*', "", page)
    assert "@import" not in page and "url(" not in page


def test_names_are_escaped(page):
    assert "b/&lt;b&gt;&amp;tiny" in page and "<b>&tiny" not in page


def test_figures_are_those_of_the_report(page, out):
    content = json.loads((out / "report.json").read_text())
    shown = [float(value) for value in re.findall(r'<td data-v="([-\d.e]+)">', page)]
    for cell in content["cells"]:
        assert cell["bitrate"] in shown and all(one["mean"] in shown for one in cell["metrics"].values())
    assert "broken.wav" in page and "is not audio that can be read" in page
    codes = content["codes"][0]
    assert f"{codes['codebooks'][0]['entropy']:.2f} of 5 bit" in page and codes["frames"] == 50 + 51 + 52


def test_sounds_are_those_that_were_kept(page, out):
    found = [unescape(sound) for sound in re.findall(r'data-flac="([^"]+)"', page)]
    assert len(found) == 2 * (1 + 2 * 3)  # of two recordings the original, and two models at three settings
    import base64

    wav, rate = soundfile.read(io.BytesIO(base64.b64decode(found[0])))
    first = soundfile.read(out.parent / "data" / "0.wav")[0]
    assert rate == 16_000 and np.abs(wav - first).max() < 1e-4


def test_the_axis_has_round_numbers():
    assert curves.nice(1.31, 2.26) == [1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4] and curves.nice(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert curves.nice(5, 5)[0] <= 5 <= curves.nice(5, 5)[-1] and len(curves.nice(0, 0)) > 1
    for low, high in np.random.default_rng(0).normal(0, 10, (100, 2)):
        ticks = curves.nice(min(low, high), max(low, high))
        assert ticks[0] <= min(low, high) + 1e-9 and ticks[-1] >= max(low, high) - 1e-9 and 3 <= len(ticks) <= 8


def test_points_lie_where_they_belong():
    svg = curves.chart({0: [Point(1, 0.5, 0.4, 0.6, 9, "k=1"), Point(4, 1.0, 0.9, 1.0, 9, "k=4")]}, ["x"], "STOI", 2)
    (line,) = re.findall(r'<polyline class="line" points="([^"]+)"', svg)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line.split())
    ticks = {float(text): float(y) - 3.5 for y, text in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', svg)}
    assert y0 == pytest.approx((ticks[0.4] + ticks[0.6]) / 2, abs=0.2) and y1 == pytest.approx(ticks[1.0], abs=0.2) and x0 < x1
    assert "x k=1: 1.00 kbit/s, 0.50 [0.40, 0.60], 9 recordings" in svg


def test_spectrograms_are_pictures_of_the_frequency():
    rate = 16_000
    wav = np.sin(2 * np.pi * 2000 * np.arange(rate) / rate).astype(np.float32)
    rows = pictures.power(wav).mean(1)
    assert rows.shape == (96,) and abs(int(rows.argmax()) - (95 - 24)) <= 1  # a quarter of the way up to 8 kHz
    levels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    content = pictures.png(levels)
    assert content.startswith(b"\x89PNG") and pictures.power(wav[:100]).shape[0] == 96
    pillow = pytest.importorskip("PIL.Image")
    picture = pillow.open(io.BytesIO(content))
    assert picture.size == (5, 4) and np.array_equal(np.array(picture), levels)


LISTEN = '<script>const errors = []; addEventListener("error", (event) => errors.push(event.message));</script>'
SCRIPT = """<script>{
const heads = [...document.querySelectorAll("#table ~ .wide th button")].slice(0, 6), first = [];
const column = () => [...document.querySelectorAll("table.sort")[0].tBodies[0].rows].map((row) => +row.cells[3].dataset.v);
heads[3].click(); first.push(column()); heads[3].click(); first.push(column());
document.querySelector(".legend button").click();
const hidden = document.querySelectorAll("svg g.off, tr.off, .clip.off").length;
document.querySelectorAll(".clip")[1].click();
const playing = document.querySelectorAll(".clip.on").length;
document.title = JSON.stringify({ errors, first, hidden, playing, wide: document.documentElement.scrollWidth, room: innerWidth });
}</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt install chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_it_works_in_a_browser(page, tmp_path, width):
    path = tmp_path / "page.html"
    path.write_text(page.replace("<title>", LISTEN + "<title>", 1).replace("</html>", SCRIPT + "</html>"), encoding="utf-8")
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
               f"--window-size={width},900", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = json.loads(unescape(re.search("<title>(.*?)</title>", done.stdout)[1]))
    assert found["errors"] == [] and found["playing"] == 1
    assert found["first"][0] == sorted(found["first"][0], reverse=True) and found["first"][1] == sorted(found["first"][0])
    assert found["hidden"] == 3 + 3 + 2 * 3  # in three charts, of three rows, of six sounds
    assert found["wide"] <= found["room"]  # nothing sticks out sideways
