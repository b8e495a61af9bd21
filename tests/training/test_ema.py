"""The moving average: its recursion, what it copies, and that swapping leaves no trace."""

import pytest
import torch
from torch import nn

from codec.training.ema import EMA


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def perturb(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    module[1].running_mean.add_(1)
    module[1].num_batches_tracked.add_(5)


def test_follows_the_recursion_with_its_warm_up():
    module = network()
    ema = EMA(module, decay=0.5)
    expected = module[0].weight.detach().clone()
    for step in range(20):
        perturb(module)
        ema.update(module, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module[0].weight.detach()
    torch.testing.assert_close(ema.averaged["0.weight"], expected)
    assert torch.equal(ema.copied["1.running_mean"], module[1].running_mean)
    assert ema.copied["1.num_batches_tracked"] == module[1].num_batches_tracked == 100


def test_swapped_shows_the_average_and_gives_everything_back_bit_for_bit():
    module = network()
    ema = EMA(module, 0.9)
    perturb(module)
    ema.update(module, 0)
    perturb(module)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    addresses = [p.data_ptr() for p in module.parameters()]
    with pytest.raises(RuntimeError, match="stop"):
        with ema.swapped(module) as swapped:
            assert torch.equal(swapped[0].weight, ema.averaged["0.weight"])
            assert torch.equal(module[1].running_mean, ema.copied["1.running_mean"])
            module[1].running_mean.add_(3)  # what happens inside is forgotten
            raise RuntimeError("stop")
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert addresses == [p.data_ptr() for p in module.parameters()]  # the optimiser still holds them
    assert not torch.equal(ema.copied["1.running_mean"], before["1.running_mean"])


def test_resumes_bitwise_through_a_file(tmp_path):
    through, resumed = network(), network()
    first = EMA(through, 0.9)
    perturb(through)
    first.update(through, 0)
    torch.save(first.state_dict(), tmp_path / "ema.pt")
    second = EMA(resumed, 0.9)
    second.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    perturb(through)
    first.update(through, 1)
    second.update(through, 1)
    for name, tensor in first.averaged.items():
        assert torch.equal(tensor, second.averaged[name])


def test_no_gradient_and_no_tie_to_the_module():
    module = network()
    ema = EMA(module)
    perturb(module)
    assert not torch.equal(ema.averaged["0.weight"], module[0].weight)
    ema.update(module, 0)
    assert not any(tensor.requires_grad for tensor in ema.averaged.values())


def test_mistakes_are_answered():
    ema = EMA(network())
    with pytest.raises(ValueError, match="another module"):
        ema.update(nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match="another model"):
        ema.load_state_dict(EMA(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))).state_dict())
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        EMA(network(), decay=1.0)
