"""The balancer: EnCodec's shares by hand, its memory and its state, and the mode of recipes/speech_16k.yaml."""

import json
import math
import subprocess
import sys

import pytest
import torch

from codec.training.balancer import Balancer


def audio(*items):
    return torch.tensor(items, dtype=torch.float32).unsqueeze(1).requires_grad_()  # (B, 1, T)


def pull(wav, *direction):
    """A loss whose gradient is `direction` in every item."""
    return (wav * torch.tensor(direction, dtype=torch.float32)).sum()


def test_shares_of_the_total_norm_by_hand():
    wav = audio([0.0, 0.0], [0.0, 0.0])
    losses = {"a": pull(wav, 3.0, 4.0), "b": pull(wav, 0.0, 1000.0)}  # norms 5 and 1000 in each item
    gradient = Balancer({"a": 1.0, "b": 3.0}, total_norm=2.0).gradient(losses, wav)
    torch.testing.assert_close(gradient, torch.tensor([2 * 0.25 * 0.6, 2 * 0.25 * 0.8 + 2 * 0.75]).expand(2, 1, 2))


def test_norms_are_means_over_items():
    wav = audio([0.0, 0.0], [0.0, 0.0])
    loss = (wav[0] * torch.tensor([[2.0, 0.0]])).sum() + (wav[1] * torch.tensor([[0.0, 6.0]])).sum()  # norms 2 and 6
    gradient = Balancer({"a": 1.0}).gradient({"a": loss}, wav)
    torch.testing.assert_close(gradient, torch.tensor([[[2.0, 0.0]], [[0.0, 6.0]]]) / 4)


def test_moving_average_by_hand():
    balancer, wav = Balancer({"a": 1.0}, decay=0.9), audio([0.0])
    for norm, average in ((2.0, 2.0), (8.0, (2 * 0.9 + 8) / 1.9), (8.0, (2 * 0.81 + 8 * 0.9 + 8) / 2.71)):
        gradient = balancer.gradient({"a": pull(wav, norm)}, wav)
        assert gradient.item() == pytest.approx(norm / average)


def test_encodecs_own_example():
    """Two opposed losses, one a hundred times the other, cancel."""
    wav = audio([0.0])
    gradient = Balancer({"a": 1.0, "b": 1.0}).gradient({"a": pull(wav, -1.0), "b": pull(wav, 100.0)}, wav)
    assert gradient.item() == pytest.approx(0, abs=1e-6)


def test_a_loss_that_is_absent_leaves_its_share_to_the_others():
    balancer, wav = Balancer({"a": 1.0, "b": 3.0}), audio([0.0])
    assert balancer.gradient({"a": pull(wav, 7.0)}, wav).item() == pytest.approx(1.0)
    assert balancer.gradient({"a": pull(wav, 7.0), "b": pull(wav, 2.0)}, wav).item() == pytest.approx(1.0)
    assert balancer.gradient({"b": pull(wav, 2.0)}, wav).item() == pytest.approx(1.0)


def steps(balancer, seeds):
    for seed in seeds:
        wav = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        losses = {"a": wav.square().sum(), "b": wav.abs().pow(1.5).mean()}
        yield balancer.gradient(losses if seed % 3 else {"a": losses["a"]}, wav)


@pytest.mark.parametrize("reference", [None, "a"])
def test_a_resumed_run_goes_on_bitwise(reference, tmp_path):
    straight, first, second = (Balancer({"a": 1.0, "b": 2.0}, decay=0.99, reference=reference) for _ in range(3))
    expected = list(steps(straight, range(1, 13)))
    list(steps(first, range(1, 7)))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    list(steps(first, [50]))  # a state is a copy: going on does not change it
    second.load_state_dict(kept)
    assert all(torch.equal(a, b) for a, b in zip(steps(second, range(7, 13)), expected[6:]))


def test_the_reference_keeps_its_gradient_and_others_are_relative_to_it():
    wav = audio([0.0, 0.0])
    losses = {"mel": pull(wav, 10.0, 0.0), "adversarial": pull(wav, 0.0, 1e-3)}
    balancer = Balancer({"mel": 2.0, "adversarial": 1.0}, decay=0.0, reference="mel")
    torch.testing.assert_close(balancer.gradient(losses, wav), torch.tensor([[[10.0, 5.0]]]))
    torch.testing.assert_close(balancer.gradient({"mel": losses["mel"]}, wav), torch.tensor([[[10.0, 0.0]]]))
    assert balancer.state_dict() == {"sums": {}, "counts": {}}  # no memory


def test_the_trained_recipes_gradient_is_bitwise_what_it_was():
    """reconstruction + sum of share * |reconstruction| / |other| * other, in that order of operations."""
    wav = torch.randn(4, 1, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reconstruction, adversarial, features = wav.square().sum(), wav.abs().pow(1.5).mean(), wav.sin().sum()
    losses = (reconstruction, adversarial, features)
    gradients = [torch.autograd.grad(loss, wav, retain_graph=True)[0] for loss in losses]
    norms = [gradient.flatten(1).norm(dim=1).mean() for gradient in gradients]
    expected = gradients[0]
    for share, gradient, norm in zip((0.5, 0.7), gradients[1:], norms[1:]):
        expected = expected + share * norms[0] / norm.clamp_min(1e-12) * gradient
    weights = {"reconstruction": 1.0, "adversarial": 0.5, "feature_matching": 0.7}
    balancer = Balancer(weights, decay=0.0, reference="reconstruction")
    others = {"adversarial": adversarial, "feature_matching": features}
    assert torch.equal(balancer.gradient({"reconstruction": reconstruction, **others}, wav), expected)
    assert torch.equal(balancer.gradient({"reconstruction": reconstruction}, wav), gradients[0])


def test_silent_gradients_stay_finite():
    wav = audio([0.0, 0.0])
    for options in ({}, {"decay": 0.0, "reference": "a"}):
        losses = {"a": pull(wav, 1.0, 0.0), "b": pull(wav, 0.0, 0.0)}
        gradient = Balancer({"a": 1.0, "b": 1.0}, **options).gradient(losses, wav)
        assert torch.isfinite(gradient).all()


def test_a_norm_that_is_not_finite_does_not_enter_the_average():
    balancer, wav = Balancer({"a": 1.0}, decay=0.9), audio([0.0])
    balancer.gradient({"a": pull(wav, 2.0)}, wav)
    for bad in (math.nan, math.inf):
        balancer.gradient({"a": pull(wav, bad)}, wav)
    assert balancer.gradient({"a": pull(wav, 2.0)}, wav).item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda wav: Balancer({}), "at least one above it"),
        (lambda wav: Balancer({"a": -1.0}), "numbers from 0"),
        (lambda wav: Balancer({"a": math.nan}), "numbers from 0"),
        (lambda wav: Balancer({"a": 0.0}), "at least one above it"),
        (lambda wav: Balancer({"a": 1.0}, decay=1.0), "below 1"),
        (lambda wav: Balancer({"a": 1.0}, total_norm=0.0), "a number above 0"),
        (lambda wav: Balancer({"a": 1.0}, reference="b"), "'b' has no weight"),
        (lambda wav: Balancer({"a": 1.0}).gradient({}, wav), "at least one"),
        (lambda wav: Balancer({"a": 1.0, "b": 1.0}, reference="a").gradient({"b": wav.sum()}, wav), "give it a"),
        (lambda wav: Balancer({"a": 1.0}).gradient({"c": wav.sum()}, wav), "no weight for the loss 'c'; it has a"),
        (lambda wav: Balancer({"a": 1.0}).gradient({"a": torch.ones(())}, wav), "outside of the balancer"),
        (lambda wav: Balancer({"a": 1.0}).gradient({"a": 2 * torch.ones((), requires_grad=True)}, wav), "not depend"),
    ],
)
def test_mistakes_are_answered_with_the_remedy(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call(audio([0.0]))
    assert "\n" not in str(caught.value)


PROCESS = """
import json, os, sys, torch, torch.distributed as dist
from codec.training.balancer import Balancer
rank = int(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
balancer = Balancer({"a": 1.0}, decay=0.9)
for step in range(3):
    wav = torch.zeros(1 + rank, 1, 1, requires_grad=True)  # the second process has more items
    balancer.gradient({"a": (wav * (1.0 + 2 * rank)).sum()}, wav)  # norms 1 and 3
print(json.dumps({k: v["a"].item() for k, v in balancer.state_dict().items()}), flush=True)
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # gloo's threads may outlive their group; where Python ends among them it now and then aborts
"""


def test_two_processes_have_the_same_averages(tmp_path):
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(tmp_path / "meet")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [run.communicate(timeout=60) for run in runs]
    assert all(run.returncode == 0 for run in runs), outputs
    states = [json.loads(out) for out, _ in outputs]
    assert states[0] == states[1]
    assert states[0]["sums"] / states[0]["counts"] == pytest.approx(2.0)
