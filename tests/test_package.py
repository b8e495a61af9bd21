"""Wheel and sdist: complete, small, and working without the checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason='building needs: pip install "neural-codec-toolkit[dev]"')

ROOT = Path(__file__).parent.parent
LIMIT = 60e6  # bytes
INSTALLED = """
import codec, codec.hub, discriminators, quantizers
from codec.training import recipe
assert "site" in codec.__file__, codec.__file__
assert recipe.names() and recipe.load(recipe.names()[0])
assert "speech-16k" in codec.models()
for name in codec.models():
    model = codec.load(name)
    assert model.decode(model.encode([0.0] * 1000)).shape == (1, 1, 1000)
print(codec.models())
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(out)], cwd=ROOT, check=True, capture_output=True)
    return out


def test_the_wheel_works_elsewhere(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    assert wheel.stat().st_size < LIMIT
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"codec", "quantizers", "discriminators"}
    assert {"codec/recipes/speech_16k.yaml", "codec/serving/page.html"} <= set(names)
    assert {"codec/training/campplus.safetensors", "codec/training/campplus.LICENSE"} <= set(names)
    weights = {f"codec/pretrained/{path.parent.name}/{path.name}" for path in (ROOT / "codec/pretrained").glob("*/*")}
    assert weights <= set(names)
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{INSTALLED}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_the_sdist_holds_what_building_and_testing_need(built):
    (sdist,) = built.glob("*.tar.gz")
    assert sdist.stat().st_size < LIMIT
    names = {name.split("/", 1)[1] for name in tarfile.open(sdist).getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "recipes/speech_16k.yaml", "tests/conftest.py", "examples/speech.flac"} <= names
