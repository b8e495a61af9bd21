"""Small seeded codecs for all tests; nothing here needs trained weights, a network or a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import soxr
import torch
from small_models import make_config, make_fused_config, make_model, make_seanet_config

from codec.config import CodecConfig

SPEECH = Path(__file__).parents[1] / "examples" / "speech.flac"

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take more than a few seconds")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def speech() -> torch.Tensor:
    """The example (T,) at 16 kHz. Shared: do not change it."""
    wav, rate = soundfile.read(SPEECH, dtype="float32", always_2d=True)
    return torch.tensor(soxr.resample(wav[:, 0], rate, 16_000))


@pytest.fixture(scope="session")
def tiny_config() -> CodecConfig:
    return make_config()


@pytest.fixture(scope="session")
def tiny_model():
    """ConvNeXt between STFTs. Shared: do not change it."""
    return make_model(make_config())


@pytest.fixture(scope="session")
def tiny_seanet():
    """SEANet. Shared: do not change it."""
    return make_model(make_seanet_config())


@pytest.fixture(scope="session")
def tiny_fused():
    """Content beside sound. Shared: do not change it."""
    return make_model(make_fused_config())


@pytest.fixture(scope="session", params=["convnext", "seanet", "fused"])
def any_model(request):
    """Each of the small codecs."""
    return request.getfixturevalue({"convnext": "tiny_model"}.get(request.param, f"tiny_{request.param}"))
