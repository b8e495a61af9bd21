"""What every family with trained codebooks promises; their own files hold what is particular to each."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from distributed import run_two
from torch import Tensor

import quantizers
from quantizers import Quantizer

DIM, SIZE = 12, 16
FAMILIES = {
    "rvq": ("rvq", 4, {}),
    "rotation": ("rvq", 4, {"gradient": "rotation"}),
    "grouped": ("grouped_rvq", 4, {"groups": 2}),
    "factorized": ("factorized_rvq", 4, {"codebook_dim": 5}),
    "factorized_multiscale": ("factorized_rvq", 4, {"codebook_dim": 5, "strides": (4, 2, 1, 1)}),
    "split": ("split_rvq", 4, {"semantic_codebooks": 2}),
    "split-narrow": ("split_rvq", 4, {"codebook_dim": 7}),
    "split-parallel": ("split_rvq", 4, {"codebook_dim": 7, "parallel": True}),
    "multiscale": ("multiscale_rvq", 4, {"strides": (4, 2, 1, 1)}),
    "single": ("single", 1, {"kmeans_iters": 10}),
    "product": ("product", 4, {}),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


def make(name: str, seed: int = 0, size: int = SIZE) -> Quantizer:
    torch.manual_seed(seed)
    family, books, options = FAMILIES[name]
    return quantizers.build(family, dim=DIM, num_codebooks=books, codebook_size=size, **options).train()


def correlated(batch: int, frames: int, seed: int = 0) -> Tensor:
    """Latents (B, DIM, T) that hang together over dimensions and time, with a mean of their own."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(99)) * 0.7 ** torch.arange(DIM)
    noise = torch.randn(batch, DIM, frames + 2, generator=random)
    return mixing @ (noise[..., :-2] + noise[..., 1:-1] + noise[..., 2:]) / 3**0.5 + torch.linspace(-1, 1, DIM)[:, None]


def trained(name: str, steps: int = 20, size: int = SIZE) -> Quantizer:
    quantizer = make(name, size=size)
    optimizer = make_optimizer(quantizer)
    for step in range(steps):
        train_step(quantizer, optimizer, correlated(4, 50, seed=step))
    return quantizer.eval()


def make_optimizer(quantizer: Quantizer) -> torch.optim.Optimizer | None:
    return torch.optim.Adam(quantizer.parameters(), lr=1e-3) if list(quantizer.parameters()) else None


def train_step(quantizer, optimizer, latents: Tensor, average_gradients: bool = False, **arguments):
    """Alone on latents: to come near them, with what the quantizer itself asks for."""
    latents = latents.clone().requires_grad_(True)
    output = quantizer(latents, **arguments)
    if optimizer is not None:
        optimizer.zero_grad()
        ((output.quantized - latents.detach()).square().mean() + sum(output.losses.values())).backward()
        if average_gradients:
            for parameter in quantizer.parameters():
                torch.distributed.all_reduce(parameter.grad)
        optimizer.step()
    return output


# Coding


@every_family
def test_codes_are_decoded_with_falling_error(name):
    quantizer, latents = trained(name, 60), correlated(3, 52, seed=1000)
    codes = quantizer.encode(latents)
    assert codes.shape == (3, quantizer.num_codebooks, 52) and codes.dtype == torch.int64 and codes.is_contiguous()
    errors = [latents.square().mean().item()]
    for k in quantizer.counts:
        assert torch.equal(quantizer.encode(latents, k), codes[:, :k])
        errors.append((quantizer.decode(codes[:, :k]) - latents).square().mean().item())
    assert errors == sorted(errors, reverse=True)
    power = latents.mT.sub(latents.mT.mean((0, 1))).square().mean().item()
    assert errors[-1] < (0.6 if name == "single" else 0.35) * power


@every_family
def test_a_frame_alone_has_the_codes_of_a_frame_among_many(name):
    quantizer, latents = trained(name, 3), correlated(1, 400)
    codes, decoded = quantizer.encode(latents), None
    multiple = max(quantizer.strides)
    decoded = quantizer.decode(codes)
    for start in (0, 1, 5, 130):
        for frames in (*range(1, 12), 60, 67):
            chunk = slice(start * multiple, start * multiple + frames * multiple)
            assert torch.equal(quantizer.encode(latents[..., chunk]), codes[..., chunk]), (start, frames)
            assert torch.equal(quantizer.decode(codes[..., chunk]), decoded[..., chunk]), (start, frames)
    batch = torch.cat([latents, correlated(2, 400, seed=1)])
    assert torch.equal(quantizer.encode(batch)[:1], codes)


@every_family
def test_half_precision_and_autocast_code_in_float32(name):
    quantizer, latents = trained(name, 3), correlated(1, 40).bfloat16()
    codes = quantizer.encode(latents.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.encode(latents), codes)
        assert quantizer.decode(codes).dtype == torch.float32
        assert torch.equal(quantizer(latents).codes, codes)


@every_family
def test_no_frames_are_fine(name):
    quantizer = make(name)
    assert quantizer.encode(torch.zeros(2, DIM, 0)).shape == (2, quantizer.num_codebooks, 0)
    assert quantizer.decode(torch.zeros(2, quantizer.num_codebooks, 0, dtype=torch.int64)).shape == (2, DIM, 0)
    train_step(quantizer, None, torch.zeros(0, DIM, 5))
    assert quantizer.encode(torch.zeros(0, DIM, 5)).shape == (0, quantizer.num_codebooks, 5)


@every_family
def test_a_search_notices_that_codebooks_changed(name):
    """In place, by loading, in a copy, and by assignment."""
    first, second, latents = trained(name, 3), trained(name, 60), correlated(1, 60)
    before, after = first.encode(latents), second.encode(latents)
    assert not torch.equal(before, after)
    copied = copy.deepcopy(first)
    first.load_state_dict(second.inference_state(), strict=False)
    assert torch.equal(first.encode(latents), after) and torch.equal(copied.encode(latents), before)
    if hasattr(copied, "codebooks"):
        copied.codebooks = copied.codebooks * 0  # every distance is equal: the first code
        assert (copied.encode(latents) == 0).all()
        with torch.inference_mode():
            copied.codebooks.copy_(second.codebooks)
        copied.load_state_dict(second.inference_state(), strict=False)
        assert torch.equal(copied.encode(latents), after)


def test_a_copy_forgets_what_the_original_kept_for_its_search():
    """Also when the copy has since changed as often as the original had."""
    original, other, latents = trained("rvq", 3), trained("rvq", 60), correlated(1, 60)
    original.encode(latents)
    for copied in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert copied.codebooks._version < original.codebooks._version
        while copied.codebooks._version < original.codebooks._version:
            copied.codebooks.copy_(other.codebooks)
        assert torch.equal(copied.encode(latents), other.encode(latents))


def test_coding_needs_torch_alone():
    script = "\n".join([
        "import sys",
        "for name in ('vector_quantize_pytorch', 'einx', 'einops'): sys.modules[name] = None",
        "import torch, quantizers",
        f"for name, books, options in {list(FAMILIES.values())!r}:",
        f"    sizes = dict(dim={DIM}, num_codebooks=books, codebook_size={SIZE})",
        "    quantizer = quantizers.build(name, **sizes, **options).eval()",
        f"    latents = torch.randn(1, {DIM}, 9)",
        "    quantizer.decode(quantizer.encode(latents))",
        "    quantizer(latents)",
    ])
    subprocess.run([sys.executable, "-c", script], check=True)


# Training


@every_family
def test_trains_out_of_the_box_from_the_first_batch(name):
    quantizer = make(name)
    assert not quantizer.initialized
    output = quantizer(correlated(4, 50))
    assert quantizer.initialized
    assert output.stats["relative_error"][-1] < 0.7 and (output.stats["usage"] > 0.6).all()
    for statistic in output.stats.values():
        assert statistic.shape == (quantizer.num_codebooks,) and not statistic.requires_grad
    reported = output.stats["relative_error"]
    assert (reported.diff() < 0).all() if len(quantizer.counts) > 1 else (reported == reported[0]).all()


@every_family
def test_evaluation_agrees_with_encode_and_changes_nothing(name):
    quantizer, latents = trained(name, 3), correlated(3, 45, seed=5)
    before = copy.deepcopy(quantizer.state_dict())
    output = quantizer(latents)
    assert torch.equal(output.codes, quantizer.encode(latents))
    torch.testing.assert_close(output.quantized, quantizer.decode(output.codes), rtol=0, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())
    fresh = make(name).eval()  # nor does it start anything
    fresh(latents)
    assert not fresh.initialized and fresh.state_dict().keys() == make(name).state_dict().keys()


@every_family
def test_active_limits_the_codebooks_of_each_item(name):
    quantizer, latents = trained(name, 10), correlated(4, 20, seed=7)
    active = torch.tensor([quantizer.counts[i % len(quantizer.counts)] for i in range(4)])
    output = quantizer(latents, active)
    for item, k in enumerate(active.tolist()):
        expected = quantizer.decode(output.codes[item : item + 1, :k])
        torch.testing.assert_close(output.quantized[item : item + 1], expected, rtol=0, atol=1e-5)
    if len(quantizer.counts) > 1:
        fewest = torch.full((4,), quantizer.counts[0])
        for key, value in quantizer(latents, fewest).losses.items():
            assert 0 < value < quantizer(latents).losses[key]


@every_family
def test_padding_trains_nothing(name):
    latents = [correlated(1, 40, seed=1), correlated(1, 24, seed=2)]
    padded = torch.full((2, DIM, 40), 1e3)
    padded[0], padded[1, :, :24] = latents[0][0], latents[1][0]
    mask = torch.arange(40) < torch.tensor([[40], [24]])
    runs = []
    for batch, arguments in ((padded, {"mask": mask}), (torch.cat(latents, 2), {})):
        quantizer = make(name)
        torch.manual_seed(1)
        for _ in range(3):
            output = quantizer(batch, **arguments)
        runs.append((quantizer.state_dict(), output))
    (state, output), (expected_state, expected) = runs
    assert state.keys() == expected_state.keys() and all(torch.equal(state[key], expected_state[key]) for key in state)
    assert output.losses.keys() == expected.losses.keys()
    for kind in ("losses", "stats"):
        torch.testing.assert_close(getattr(output, kind), getattr(expected, kind), rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.cat([output.codes[0], output.codes[1, :, :24]], 1), expected.codes[0])
    assert (output.quantized[1, :, 24:] == 0).all() and (output.codes[1, :, 24:] == 0).all()


@every_family
def test_all_padding_and_constant_latents_spoil_nothing(name):
    quantizer = make(name)
    nothing = torch.zeros(2, 30, dtype=torch.bool)
    quantizer(torch.zeros(2, DIM, 30), mask=nothing)
    assert not quantizer.initialized  # it waits for data
    for latents in (torch.full((2, DIM, 30), 3.0), torch.zeros(2, DIM, 30), correlated(1, 3), correlated(2, 30)):
        latents.requires_grad_(True)
        output = quantizer(latents)
        (output.quantized.sum() + sum(output.losses.values())).backward()
        assert latents.grad.isfinite().all() and output.quantized.isfinite().all()
    output = quantizer(correlated(2, 30), mask=nothing)
    assert all(value == 0 for value in output.losses.values())
    assert all(value.isfinite().all() for value in quantizer.state_dict().values())


@every_family
def test_losses_do_not_fall_by_shrinking_the_latents(name):
    small = make(name)
    torch.manual_seed(1)
    large = copy.deepcopy(small)
    losses = []
    for quantizer, scale in ((small, 0.01), (large, 1.0)):
        torch.manual_seed(1)
        losses.append(quantizer(scale * correlated(4, 50)).losses)
    torch.testing.assert_close(losses[0], losses[1], rtol=0.02, atol=1e-3)


@every_family
def test_gradients_reach_latents_and_parameters(name):
    quantizer, latents = trained(name, 3).train(), correlated(2, 20).requires_grad_(True)
    output = quantizer(latents)
    (output.quantized * torch.randn_like(latents)).sum().backward()
    assert latents.grad.abs().mean() > 0.1
    (sum(quantizer(latents).losses.values()) + quantizer(latents).quantized.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in quantizer.parameters())


@every_family
def test_a_fresh_quantizer_codes_with_the_inference_state(name):
    quantizer, latents = trained(name, 3), correlated(2, 30)
    state = quantizer.inference_state()
    fresh = make(name, seed=5).eval()
    assert set(state) == set(fresh.state_dict())
    fresh.load_state_dict(state, strict=False)
    codes = quantizer.encode(latents)
    assert torch.equal(fresh.encode(latents), codes) and torch.equal(fresh.decode(codes), quantizer.decode(codes))


@every_family
def test_a_fresh_quantizer_takes_a_state_of_training(name):
    """As from `build`, with nothing prepared: it codes alike and goes on from where the other is."""
    quantizer, latents = trained(name), correlated(4, 50, seed=77)
    fresh = make(name, seed=5)
    fresh.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    codes = quantizer.encode(latents)
    assert torch.equal(fresh.encode(latents), codes) and torch.equal(fresh.decode(codes), quantizer.decode(codes))
    assert fresh.initialized
    for one in (quantizer, fresh):
        torch.manual_seed(3)
        one.train()(latents)
    for key, value in quantizer.state_dict().items():  # about: the frames of a step were told by what the codes count
        torch.testing.assert_close(fresh.state_dict()[key], value, rtol=0.05, atol=0.05)


@every_family
def test_training_resumes_bit_by_bit(name):
    quantizer = make(name)
    quantizer.prepare_training(frames_per_step=200)
    optimizer = make_optimizer(quantizer)
    for step in range(3):
        train_step(quantizer, optimizer, correlated(4, 50, seed=step))
    resumed = make(name, seed=9)
    resumed.prepare_training(frames_per_step=200)
    resumed.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    resumed_optimizer = make_optimizer(resumed)
    if optimizer is not None:
        resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, its_optimizer in ((quantizer, optimizer), (resumed, resumed_optimizer)):
        torch.manual_seed(3)
        for step in range(3, 6):
            train_step(one, its_optimizer, correlated(4, 50, seed=step))
    for key, value in quantizer.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


@every_family
def test_initialize_needs_no_preparation_and_lasts(name):
    quantizer = make(name)
    quantizer.initialize(correlated(8, 200, seed=3))
    assert quantizer.initialized
    before = quantizer.inference_state()
    before = {key: value.clone() for key, value in before.items()}
    output = quantizer(correlated(4, 50))  # a sixteenth as many frames: no code must seem unused for it
    moved = [(value - before[key]).abs().mean() for key, value in quantizer.inference_state().items()]
    scale = correlated(4, 50).std()
    assert max(moved) < 0.1 * scale and output.stats["relative_error"][-1] < 0.7


@every_family
def test_fine_tuning_goes_on_from_the_codebooks(name):
    quantizer = trained(name, 10)
    tuned = make(name, seed=7)
    tuned.load_state_dict(quantizer.inference_state(), strict=False)
    tuned.start_from_codebooks()
    assert tuned.initialized
    latents = correlated(4, 50, seed=10)
    assert torch.equal(tuned(latents).codes, quantizer.encode(latents))
    error = (tuned.eval().decode(tuned.encode(latents)) - latents).square().mean()
    assert error < 1.1 * (quantizer.decode(quantizer.encode(latents)) - latents).square().mean()


@every_family
def test_most_codes_are_used(name):
    quantizer = trained(name, steps=150, size=32)
    codes = quantizer.encode(correlated(4, 2000, seed=500))
    for index in range(quantizer.num_codebooks):
        assert codes[:, index].unique().numel() > 0.9 * 32


@every_family
def test_codes_out_of_use_restart(name):
    quantizer = trained(name, 10).train()
    with torch.no_grad():
        if hasattr(quantizer, "codebooks"):
            quantizer.codebooks[:, 4:] = 1e4
        else:
            for stage in quantizer.stages:  # found by direction: the first of equals is taken
                stage.codebook.weight[4:] = stage.codebook.weight[:1]
    quantizer.start_from_codebooks()
    before = quantizer(correlated(4, 50)).stats["usage"].mean()
    for step in range(260):  # 0.99^230 is the tenth of the expected use below which a code is dead
        quantizer(correlated(4, 50, seed=step))
    stats = quantizer(correlated(4, 50, seed=1)).stats
    assert before < 0.4 and stats["usage"].min() > 0.6


def _train_on_rank(rank: int, names: list[str]) -> dict[str, dict[str, Tensor]]:
    """Different data, on the second rank fewer frames, once none; every other code made dead on the way."""
    states = {}
    for name in names:
        quantizer = make(name)
        optimizer = make_optimizer(quantizer)
        torch.manual_seed(rank)
        for step in range(6):
            batch = correlated(2, 40 if rank == 0 else 13, seed=100 * rank + step)
            mask = torch.ones(2, batch.shape[2], dtype=torch.bool)
            mask[:] = not (rank == 1 and step == 3)
            if step == 2:
                for trainer in quantizer.trainer:
                    use = trainer.use if hasattr(trainer, "use") else trainer.vq._codebook.cluster_size[0]
                    use[::2] = 0.0
            train_step(quantizer, optimizer, batch, average_gradients=True, mask=mask)
        states[name] = quantizer.state_dict()
    return states


def test_two_processes_keep_the_same_codebooks():
    first, second = run_two(_train_on_rank, list(FAMILIES), timeout=120)
    for name in FAMILIES:
        alone = make(name)
        assert first[name].keys() == second[name].keys()
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), (name, key)
            if key in alone.state_dict():
                assert not torch.equal(value, alone.state_dict()[key]), (name, key)
