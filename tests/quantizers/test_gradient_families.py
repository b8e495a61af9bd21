"""What holds for every family that is trained by gradients, or not at all, and for k-means."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from distributed import run_two
from torch import Tensor, distributed, nn

import quantizers
from quantizers import Quantizer, QuantizerOutput

DIM = 12
FAMILIES = {  # name of the case: family, codebooks, size, options; the first of each with fewer axes than DIM
    "fsq": ("fsq", 2, 64, {}),
    "fsq whole": ("fsq", 4, 64, {}),
    "fsq grid": ("fsq", 2, 1000, {"reconstruction": "grid"}),
    "residual_fsq": ("residual_fsq", 3, 1000, {}),
    "residual_fsq whole": ("residual_fsq", 3, 729, {"levels": (9, 9, 9)}),
    "lfq": ("lfq", 2, 16, {}),
    "lfq whole": ("lfq", 1, 4096, {}),
    "bsq": ("bsq", 2, 16, {}),
    "bsq whole": ("bsq", 3, 16, {}),
    "simvq": ("simvq", 3, 32, {}),
    "kmeans": ("kmeans", 3, 32, {}),
}
TOGETHER = ("fsq", "lfq", "bsq")


def make(case: str, seed: int = 0) -> Quantizer:
    torch.manual_seed(seed)
    name, books, size, options = FAMILIES[case]
    return quantizers.build(name, dim=DIM, num_codebooks=books, codebook_size=size, **options)


def speech_like(batch: int, frames: int, seed: int = 0) -> Tensor:
    """Correlated, of unequal variances, and far from zero."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(99)) * torch.logspace(0, -1.5, DIM)
    return mixing @ torch.randn(batch, DIM, frames, generator=random) + 2


def trained(case: str, steps: int = 3) -> Quantizer:
    quantizer = make(case).train()
    for step in range(steps):
        quantizer(speech_like(4, 100, step))
    return quantizer


every_case = pytest.mark.parametrize("case", FAMILIES)


@every_case
def test_shapes_and_counts(case):
    quantizer = make(case)
    codes = quantizer.encode(torch.randn(2, DIM, 9))
    assert codes.shape == (2, quantizer.num_codebooks, 9) and codes.dtype == torch.int64
    assert codes.min() >= 0 and all(codes[:, k].max() < size for k, size in enumerate(quantizer.codebook_sizes))
    assert quantizer.decode(codes).shape == (2, DIM, 9)
    assert quantizer.encode(torch.randn(2, DIM, 0)).shape == (2, quantizer.num_codebooks, 0)
    assert quantizer.decode(codes[..., :0]).shape == (2, DIM, 0)
    together = case.split()[0] in TOGETHER
    books = quantizer.num_codebooks
    assert quantizer.counts == ((books,) if together else tuple(range(1, books + 1)))
    if together and books > 1:
        with pytest.raises(ValueError, match="only decode together"):
            quantizer.decode(codes[:, :1])


@every_case
def test_codes_that_are_not_there_are_refused(case):
    quantizer = make(case)
    codes = quantizer.encode(torch.randn(1, DIM, 5))
    for wrong in (-1, quantizer.codebook_sizes[0]):
        codes[0, 0, 3] = wrong
        with pytest.raises(ValueError, match="another quantizer's"):
            quantizer.decode(codes)
    with pytest.raises(ValueError, match="must be integers"):
        quantizer.decode(codes.float())
    small = torch.randint(3, (1, quantizer.num_codebooks, 5))
    assert torch.equal(quantizer.decode(small.to(torch.uint8)), quantizer.decode(small))


@every_case
def test_every_code_decodes(case):
    quantizer = trained(case)
    codes = torch.stack([torch.randint(size, (1, 2000)) for size in quantizer.codebook_sizes], 1)
    assert quantizer.decode(codes).isfinite().all()
    if "grid" not in case and case.split()[0] not in ("simvq", "kmeans"):
        assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)  # every code, those of no latents included


@every_case
def test_a_frame_alone_has_the_codes_of_a_frame_among_many(case):
    quantizer = trained(case).eval()
    latents = speech_like(1, 400, 7)
    codes = quantizer.encode(latents)
    for start in (0, 1, 130):
        for frames in (*range(1, 20), 100, 257):
            part = slice(start, start + frames)
            assert torch.equal(quantizer.encode(latents[..., part]), codes[..., part])


@every_case
def test_fewer_codebooks_are_the_first_and_err_more(case):
    quantizer = trained(case)
    latents = speech_like(2, 300, 7)
    codes = quantizer.encode(latents)
    errors = []
    for k in quantizer.counts:
        assert torch.equal(quantizer.encode(latents, k), codes[:, :k])
        errors.append(float((quantizer.decode(codes[:, :k]) - latents).square().mean()))
    assert errors == sorted(errors, reverse=True)


@every_case
def test_evaluation_is_encoding_and_changes_nothing(case):
    quantizer = trained(case).eval()
    state = copy.deepcopy(quantizer.state_dict())
    latents = speech_like(2, 50, 8)
    output = quantizer(latents)
    assert torch.equal(output.codes, quantizer.encode(latents))
    torch.testing.assert_close(output.quantized, quantizer.decode(output.codes), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in quantizer.state_dict().items())
    fresh = make(case).eval()
    fresh(latents)
    assert all(torch.equal(value, make(case).state_dict()[name]) for name, value in fresh.state_dict().items())


@every_case
def test_what_is_saved_codes_alike(case):
    quantizer = trained(case)
    state = quantizer.inference_state()
    assert state and not any("trainer" in name for name in state)
    fresh = make(case, seed=5)
    fresh.load_state_dict(state, strict=False)
    latents = speech_like(2, 50, 8)
    codes = fresh.encode(latents)
    assert torch.equal(codes, quantizer.encode(latents))
    assert torch.equal(fresh.decode(codes), quantizer.decode(codes))


def take_step(quantizer: Quantizer, optimizer: torch.optim.Optimizer | None, batch: Tensor) -> QuantizerOutput:
    output = quantizer(batch)
    if optimizer is not None:
        optimizer.zero_grad()
        ((output.quantized - batch).square().mean() + sum(output.losses.values())).backward()
        optimizer.step()
    return output


def make_optimizer(quantizer: Quantizer) -> torch.optim.Optimizer | None:
    parameters = list(quantizer.parameters())
    return torch.optim.SGD(parameters, 0.05) if parameters else None


@every_case
def test_training_resumes_bit_by_bit(case):
    quantizer = make(case).train()
    quantizer.prepare_training(frames_per_step=400)
    for step in range(3):
        take_step(quantizer, make_optimizer(quantizer), speech_like(4, 100, step))
    saved, random_state = copy.deepcopy(quantizer.state_dict()), torch.get_rng_state()
    for step in range(3, 6):
        expected = take_step(quantizer, make_optimizer(quantizer), speech_like(4, 100, step))
    resumed = make(case, seed=9).train()
    resumed.prepare_training(frames_per_step=400)
    resumed.load_state_dict(saved)
    torch.set_rng_state(random_state)
    for step in range(3, 6):
        output = take_step(resumed, make_optimizer(resumed), speech_like(4, 100, step))
    assert torch.equal(output.codes, expected.codes) and torch.equal(output.quantized, expected.quantized)
    assert all(torch.equal(resumed.state_dict()[name], value) for name, value in quantizer.state_dict().items())


@every_case
def test_gradients_reach_the_latents_and_lower_the_error(case):
    torch.manual_seed(1)
    quantizer = make(case).train()
    inputs, mixing = torch.randn(4, DIM, 100), torch.randn(DIM, DIM) / DIM**0.5
    target = mixing @ inputs
    encoder = nn.Conv1d(DIM, DIM, 1)
    optimizer = torch.optim.Adam([*encoder.parameters(), *quantizer.parameters()], 0.01)
    errors = []
    for _ in range(100):
        latents = encoder(inputs)
        latents.retain_grad()
        output = quantizer(latents)
        error = (output.quantized - target).square().mean()
        optimizer.zero_grad()
        (error + 0.25 * sum(output.losses.values())).backward()
        assert latents.grad.isfinite().all() and (latents.grad.abs().sum(1) > 0).all()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.7 * errors[0]


@every_case
def test_padding_trains_nothing(case):
    latents = speech_like(3, 40, 3)
    mask = torch.zeros(3, 60, dtype=torch.bool)
    mask[:, :40] = True
    padded = torch.cat([latents, torch.full((3, DIM, 20), torch.nan)], 2)
    plain, masked = make(case).train(), make(case).train()
    for quantizer, batch, given in ((plain, latents, None), (masked, padded, mask)):
        torch.manual_seed(4)
        quantizer.prepare_training(frames_per_step=120)
        outputs = [quantizer(batch, mask=given) for _ in range(2)]
        quantizer.last = outputs[-1]
    assert torch.equal(masked.last.codes[..., :40], plain.last.codes) and (masked.last.codes[..., 40:] == 0).all()
    assert (masked.last.quantized[..., 40:] == 0).all()
    torch.testing.assert_close(masked.last.quantized[..., :40], plain.last.quantized)
    torch.testing.assert_close(masked.last.losses, plain.last.losses)
    torch.testing.assert_close(masked.last.stats, plain.last.stats)
    torch.testing.assert_close(dict(masked.state_dict()), dict(plain.state_dict()))


@every_case
def test_nothing_but_padding_is_no_harm(case):
    quantizer = make(case).train()
    latents, mask = speech_like(2, 50), torch.zeros(2, 50, dtype=torch.bool)
    for _ in range(2):
        output = quantizer(latents.requires_grad_(), mask=mask)
        sum(output.losses.values(), output.quantized.sum()).backward()
    quantizer(latents)
    assert quantizer.initialized and all(value.isfinite().all() for value in quantizer.state_dict().values())
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in quantizer.parameters())


@every_case
def test_active_limits_the_codebooks_of_each_item(case):
    quantizer = trained(case).eval()
    latents = speech_like(3, 40, 5)
    active = torch.tensor([quantizer.counts[0], quantizer.counts[-1], quantizer.counts[len(quantizer.counts) // 2]])
    output = quantizer(latents, active)
    for item, k in enumerate(active.tolist()):
        expected = quantizer.decode(output.codes[item : item + 1, :k])
        torch.testing.assert_close(output.quantized[item : item + 1], expected, atol=1e-5, rtol=1e-5)


@every_case
def test_losses_do_not_depend_on_the_size_of_latents(case):
    quantizer = make(case).train()
    small = make(case).train()
    for step in range(2):
        torch.manual_seed(step)
        output = quantizer(speech_like(4, 100, step))
        torch.manual_seed(step)
        other = small(0.01 * speech_like(4, 100, step))
    torch.testing.assert_close(other.losses, output.losses, rtol=2e-2, atol=1e-3)


@every_case
@pytest.mark.parametrize("latents", [
    torch.zeros(1, DIM, 100), torch.full((1, DIM, 100), 3.0), torch.randn(1, DIM, 2),
    torch.randn(1, DIM, 1).repeat(1, 1, 3),
], ids=["zeros", "constant", "few", "repeated"])
def test_degenerate_data_neither_crash_nor_spoil(case, latents):
    quantizer = make(case).train()
    for _ in range(3):
        output = quantizer(latents)
    assert output.quantized.isfinite().all() and all(loss.isfinite() for loss in output.losses.values())
    quantizer(speech_like(4, 100))
    assert all(value.isfinite().all() for value in quantizer.state_dict().values())


@every_case
def test_data_that_is_not_finite_is_refused(case):
    quantizer = trained(case)
    state = copy.deepcopy(quantizer.state_dict())
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantizer(torch.full((1, DIM, 4), torch.nan))
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantizer.initialize(torch.full((1, DIM, 4), torch.inf))
    assert all(torch.equal(value, state[name]) for name, value in quantizer.state_dict().items())


@every_case
def test_a_start_that_is_there_is_kept(case):
    quantizer, latents = make(case).train(), speech_like(4, 100)
    assert not quantizer.initialized
    quantizer.initialize(speech_like(1, 1000, 5))
    assert quantizer.initialized
    before = quantizer.eval().encode(latents)
    quantizer.train()(latents)
    assert (quantizer.encode(latents) == before).float().mean() > 0.8  # k-means moves a little

    kept = make(case).train()
    kept.prepare_training(frames_per_step=400)
    kept.start_from_codebooks()
    assert kept.initialized
    before = kept.encode(latents)
    assert torch.equal(kept(latents).codes, before)


def test_statistics_name_every_codebook():
    for case in FAMILIES:
        quantizer = trained(case)
        stats = quantizer(speech_like(4, 100)).stats
        assert set(stats) == {"relative_error", "entropy", "usage"}
        assert all(value.shape == (quantizer.num_codebooks,) and not value.requires_grad for value in stats.values())
        if "grid" not in case:
            assert stats["relative_error"][-1] < 0.7, case


def test_coding_needs_torch_alone():
    code = """
import sys
sys.modules["vector_quantize_pytorch"] = None
import torch, quantizers
for name in ("fsq", "residual_fsq", "lfq", "bsq", "simvq", "kmeans"):
    quantizer = quantizers.build(name, dim=12, num_codebooks=2, codebook_size=64)
    quantizer.decode(quantizer.encode(torch.randn(1, 12, 5)))
quantizer.fit(torch.randn(200, 12))
quantizer.partial_fit(torch.randn(200, 12))
quantizers.build("random_projection", dim=12, num_codebooks=2, codebook_size=64).encode(torch.randn(1, 12, 5))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Two processes


def train_on_one_of_two(rank: int) -> dict[str, dict[str, Tensor]]:
    """States after training, with what autograd gives averaged as DistributedDataParallel does."""
    states = {}
    for case in FAMILIES:
        torch.manual_seed(0)
        quantizer = make(case).train()
        torch.manual_seed(rank)  # what is drawn must agree in spite of this
        optimizer = make_optimizer(quantizer)
        for step in range(4):
            batch = speech_like(2, 60 if rank == 0 else 7, 10 * step + rank)
            mask = torch.full((2, batch.shape[2]), not (rank == 1 and step == 2))  # nothing but padding in one step
            output = quantizer(batch, mask=mask)
            if optimizer is not None:
                optimizer.zero_grad()
                sum(output.losses.values(), output.quantized.square().mean()).backward()
                for parameter in quantizer.parameters():
                    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= 2
                optimizer.step()
        states[case] = {name: value.clone() for name, value in quantizer.state_dict().items()}
    return states


def test_two_processes_agree():
    first, second = run_two(train_on_one_of_two)
    for case in FAMILIES:
        assert quantizers_started(first[case]), case
        for name, value in first[case].items():
            assert torch.equal(value, second[case][name]), (case, name)


def quantizers_started(state: dict[str, Tensor]) -> bool:
    return all(bool(value) for name, value in state.items() if name.endswith(("trainer_started", "initted")))
