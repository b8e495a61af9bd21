"""On a CUDA device: bf16 training, resuming, and codes that agree with the CPU's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from small_models import make_model

pytestmark = pytest.mark.gpu
sys.path.insert(0, str(Path(__file__).parent.parent / "training"))


@pytest.fixture
def values(tmp_path):
    import tiny_recipe

    return tiny_recipe.recipe(tiny_recipe.corpus(tmp_path / "corpus"), tmp_path) | {}


def test_codes_agree_with_the_cpu(tiny_config):
    """Other kernels round differently: at most 1 frame in 1,000 may flip, and the audio agrees where codes do."""
    model = make_model(tiny_config)  # its own: the shared one must stay on the CPU for the tests that follow
    wav = torch.randn(20 * model.sample_rate, generator=torch.Generator().manual_seed(0)) * 0.1
    tokens = model.encode(wav)
    audio = model.decode(tokens)
    model.cuda()
    codes = model.encode(wav).codes.cpu()
    assert (codes != tokens.codes).any(1).float().mean() <= 1e-3
    torch.testing.assert_close(model.decode(tokens), audio, atol=1e-3, rtol=1e-3)


def test_bf16_training_and_resume(values):
    from codec.training import recipe
    from codec.training.run import train

    values["run"] |= {"accelerator": "gpu", "precision": "bf16-mixed"}
    values["schedule"]["steps"] = 6
    train(recipe.from_dict(values), progress=False)
    values["schedule"]["steps"] = 10
    directory = train(recipe.from_dict(values), progress=False)
    state = torch.load(directory / "last.ckpt", weights_only=True)["state_dict"]
    assert state["steps_done"] == 10
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())
