"""The adversarial objectives have the values that their papers give them."""

import pytest
import torch

from discriminators import DiscriminatorOutput
from discriminators.losses import discriminator_loss, feature_matching_loss, generator_loss


def scores(*values):
    return DiscriminatorOutput([torch.tensor([v], dtype=torch.float32) for v in values], [])


def test_hinge():
    assert discriminator_loss(scores(2.0), scores(-2.0), "hinge").item() == 0
    assert discriminator_loss(scores(0.5), scores(0.25), "hinge").item() == pytest.approx(0.5 + 1.25)
    assert generator_loss(scores(0.25), "hinge").item() == pytest.approx(0.75)


def test_least_squares():
    assert discriminator_loss(scores(1.0), scores(0.0), "least_squares").item() == 0
    assert discriminator_loss(scores(0.5), scores(0.5), "least_squares").item() == pytest.approx(0.5)
    assert generator_loss(scores(0.5), "least_squares").item() == pytest.approx(0.25)


@pytest.mark.parametrize("kind", ["hinge", "least_squares"])
def test_mean_over_sub_discriminators(kind):
    assert generator_loss(scores(0.2, 0.2, 0.2), kind).item() == pytest.approx(generator_loss(scores(0.2), kind).item())
    one, three = (discriminator_loss(scores(*[0.2] * n), scores(*[0.1] * n), kind).item() for n in (1, 3))
    assert three == pytest.approx(one)


def test_feature_matching_is_relative_per_layer_and_trains_the_fake_only():
    real = DiscriminatorOutput([], [[torch.full((2, 3), 4.0, requires_grad=True)], [torch.full((5,), 100.0)]])
    fake = DiscriminatorOutput([], [[torch.full((2, 3), 3.0, requires_grad=True)], [torch.full((5,), 50.0)]])
    loss = feature_matching_loss(real, fake)
    assert loss.item() == pytest.approx((0.25 + 0.5) / 2)
    loss.backward()
    assert real.features[0][0].grad is None
    torch.testing.assert_close(fake.features[0][0].grad, torch.full((2, 3), -1 / 4 / 6 / 2))


def test_feature_matching_of_dead_maps_is_finite():
    zero = DiscriminatorOutput([], [[torch.zeros(4, requires_grad=True)]])
    loss = feature_matching_loss(zero, zero)
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(zero.features[0][0].grad).all()


def test_low_precision_maps_are_reduced_in_float32():
    real = DiscriminatorOutput([], [[torch.ones(100_000, dtype=torch.bfloat16)]])
    fake = DiscriminatorOutput([], [[(torch.arange(100_000) % 3 > 0).bfloat16()]])
    loss = feature_matching_loss(real, fake)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(1 / 3, rel=1e-4)


def test_unknown_kind():
    with pytest.raises(ValueError, match="choose one of hinge, least_squares"):
        generator_loss(scores(0.0), "wgan")
