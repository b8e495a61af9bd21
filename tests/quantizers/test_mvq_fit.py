"""Fitting multi-codebook VQ to features, and what comes of it on features it has not seen."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from quantizers import mvq_fit
from quantizers.mvq import MultiCodebookVQ
from quantizers.mvq_fit import fit_mvq
from quantizers.mvq_prediction import JointCodebookLoss


def correlated(frames: int, seed: int, dim: int = 16) -> Tensor:
    """(N, dim): Gaussian, with axes of very different variance, away from zero."""
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(9)) * torch.linspace(2, 0.2, dim)
    return torch.randn(frames, dim, generator=torch.Generator().manual_seed(seed)) @ mixing.T + 7


def relative_error(quantizer: MultiCodebookVQ, rows: Tensor) -> float:
    decoded = quantizer.decode_bytes(quantizer.encode_bytes(rows))
    return float((decoded - rows).square().sum() / (rows - rows.mean(0)).square().sum())


@pytest.fixture(scope="module")
def held_out() -> Tensor:
    return correlated(1500, seed=2)


@pytest.fixture(scope="module")
def fitted() -> MultiCodebookVQ:
    """2 bytes a frame. Shared: do not change it."""
    return fit_mvq(correlated(6000, seed=1), 2, iterations=3, start="predicted")


@pytest.fixture(scope="module")
def residual() -> MultiCodebookVQ:
    """Residual k-means of 2 bytes a frame. Shared: do not change it."""
    quantizer = fit_mvq(correlated(6000, seed=1), 2, iterations=0)
    quantizer.rounds, quantizer.beam = 0, 1
    return quantizer


@pytest.fixture(scope="module")
def fitted8() -> MultiCodebookVQ:
    """8 bytes a frame. Shared: do not change it."""
    return fit_mvq(correlated(2000, seed=1), 8, iterations=2)


def test_refined_indices_beat_predicted_ones_and_greedy_residual_kmeans(fitted, residual, held_out):
    refined = relative_error(fitted, held_out)
    unrefined = copy.deepcopy(fitted)
    unrefined.rounds = 0
    assert refined < 0.55 * relative_error(unrefined, held_out)
    assert refined < 0.95 * relative_error(residual, held_out)


def test_error_falls_with_rounds_and_with_the_beam(fitted8, held_out):
    quantizer = copy.deepcopy(fitted8)
    for beam in (1, 32):
        errors = []
        for quantizer.rounds in (0, 1, 3, 5):
            quantizer.beam = beam
            errors.append(relative_error(quantizer, held_out))
        assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]
        if beam == 1:
            narrow = errors
    assert narrow[-1] < 0.97 * narrow[0] and errors[-1] < 0.9 * narrow[-1]


def test_fitting_beats_its_start_and_more_bytes_are_better(fitted8, held_out):
    start = fit_mvq(correlated(2000, seed=1), 8, iterations=0)
    errors = [relative_error(q, held_out) for q in (fit_mvq(correlated(2000, seed=1), 1), start, fitted8)]
    assert errors[0] > errors[1] > errors[2]


def test_shannon_is_not_beaten(held_out):
    """White Gaussian: the distortion at R bits a dimension is at least 2^(-2R)."""
    white = torch.randn(8000, 16, generator=torch.Generator().manual_seed(3))
    quantizer = fit_mvq(white[:7000], 2, iterations=1)
    error = relative_error(quantizer, white[7000:])
    assert 2 ** (-2 * 16 / 16) < error < 1.5 * 2 ** (-2 * 16 / 16)


def test_what_is_decoded_encodes_as_well_again(fitted, held_out):
    codes = fitted.encode_bytes(held_out)
    again = fitted.encode_bytes(fitted.decode_bytes(codes))
    before, after = ((fitted.decode_bytes(c) - held_out).square().sum() for c in (codes, again))
    assert after <= 1.01 * before and (again == codes).float().mean() > 0.99


def test_what_is_decoded_is_nearly_always_found_again_by_a_wide_beam(fitted8, held_out):
    """8 codebooks for 16 dimensions are 4 bits for each: their sums lie dense, and any search may take a neighbour."""
    survived = []
    quantizer = copy.deepcopy(fitted8)
    for quantizer.beam in (1, 32):
        codes = quantizer.encode_bytes(held_out[:500])
        survived.append((quantizer.encode_bytes(quantizer.decode_bytes(codes)) == codes).float().mean())
    assert survived[1] > 0.8 and survived[1] > survived[0] + 0.1


def test_nearly_all_codes_are_used(fitted, held_out):
    codes = fitted.encode_bytes(held_out)
    assert all(column.unique().numel() > 0.9 * 256 for column in codes.T)


def test_bytes_in_and_out(fitted, held_out):
    codes = fitted.encode_bytes(held_out)
    assert codes.dtype == torch.uint8 and codes.shape == (1500, 2)
    assert torch.equal(fitted.encode_bytes(held_out.numpy()), codes)
    assert torch.equal(fitted.encode(held_out.T[None])[0].T, codes.long())
    decoded = fitted.decode_bytes(codes.numpy())
    assert decoded.dtype == torch.float32 and torch.equal(decoded, fitted.decode(codes.T[None].long())[0].T)
    with pytest.raises(ValueError, match=r"must be \(N, 16\)"):
        fitted.encode_bytes(held_out[None])
    with pytest.raises(ValueError, match=r"must be \(N, 2\)"):
        fitted.decode_bytes(codes[None])
    with pytest.raises(ValueError, match="use encode and decode"):
        MultiCodebookVQ(4, 2, 512).encode_bytes(torch.zeros(3, 4))


def test_the_id_tells_quantizers_apart_and_survives_a_file(fitted, fitted8, held_out):
    assert len(fitted.id) == 8 and int(fitted.id, 16) >= 0 and fitted.id != fitted8.id
    twin = MultiCodebookVQ(16, 2, 256, start="predicted")
    twin.load_state_dict(load(save(fitted.state_dict())))
    assert twin.id == fitted.id and torch.equal(twin.encode_bytes(held_out), fitted.encode_bytes(held_out))
    twin.codebooks[1, 3, 0] += 1e-3
    assert twin.id != fitted.id


def test_the_same_seed_gives_the_same_and_leaves_the_random_state_alone():
    rows, state = correlated(1024, seed=1), torch.get_rng_state()
    first, second, other = (fit_mvq(rows, 2, iterations=1, seed=seed) for seed in (3, 3, 4))
    assert first.id == second.id != other.id
    assert torch.equal(torch.get_rng_state(), state)


def test_numpy_half_and_scale_do_not_matter():
    rows = correlated(1500, seed=1)
    errors = [
        relative_error(fit_mvq(given, 2, iterations=2), torch.as_tensor(given).float())
        for given in (rows, rows.numpy().astype(np.float16), rows * 1e6, rows * 1e-6, rows + 300)
    ]
    assert max(errors) < 1.05 * min(errors)


def test_flat_and_repeated_features_are_fitted():
    for rows in (torch.full((1024, 4), 3.0), torch.randn(5, 4).repeat(300, 1)):
        quantizer = fit_mvq(rows, 2, iterations=2)
        torch.testing.assert_close(quantizer.decode_bytes(quantizer.encode_bytes(rows)), rows, atol=1e-3, rtol=0)


def test_progress_is_told():
    seen = []
    fit_mvq(correlated(1024, seed=1), 2, iterations=3, progress=lambda *told: seen.append(told))
    assert [told[:2] for told in seen] == [(1, 3), (2, 3), (3, 3)] and all(0 < told[2] < 1 for told in seen)


def test_least_squares_solves_the_normal_equations():
    torch.manual_seed(0)
    codes, rows, centers = torch.randint(8, (400, 3)), torch.randn(400, 5), torch.zeros(3, 8, 5)
    sweeps, mvq_fit.SWEEPS = mvq_fit.SWEEPS, 500
    try:
        found = mvq_fit._least_squares(centers, rows, codes)
    finally:
        mvq_fit.SWEEPS = sweeps
    design = torch.nn.functional.one_hot(codes, 8).flatten(1).double()  # (400, 24)
    ridge = 1000.0  # the centers explain nothing yet, so that they are held as tightly as they ever are
    noise = rows.square().mean(0)
    ridge = (mvq_fit.SHRINKAGE * 3 * noise / (0.02 * noise)).clamp(mvq_fit.SHRINKAGE, ridge)[0].double()
    expected = torch.linalg.solve(design.T @ design + ridge * torch.eye(24), design.T @ rows.double())
    torch.testing.assert_close(found.flatten(0, 1).double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("features, options, message", [
    (torch.zeros(2000, 4), {"bytes_per_frame": 3}, "one of 1, 2, 4, 8, 16, 32"),
    (torch.zeros(2000), {}, r"must be \(N, D\)"),
    (torch.zeros(2000, 4, dtype=torch.int64), {}, "must be float"),
    (torch.zeros(1023, 4), {}, "at least 1024"),
    (torch.full((2000, 4), float("inf")), {}, "NaN or infinite"),
    (torch.zeros(2000, 4), {"iterations": -1}, "0 or more"),
    (torch.zeros(2000, 4), {"start": "x"}, "beam and predicted"),
])
def test_what_cannot_be_fitted_is_refused(features, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        fit_mvq(features, **options)
    assert "\n" not in str(refused.value)


# The student's loss


def test_joint_loss_learns_what_independent_prediction_cannot():
    """Two codebooks that always agree, at random: the second is known once the first is."""
    torch.manual_seed(0)
    loss = JointCodebookLoss(8, 2, 4)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(150):
        codes = torch.randint(4, (4, 1, 50)).expand(4, 2, 50)
        value = loss(torch.zeros(4, 50, 8), codes)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert abs(value.item() - np.log(4) / 2) < 0.1  # log 4 for the first, 0 for the second


def test_joint_loss_is_the_cross_entropy_of_codes_given_those_before():
    torch.manual_seed(0)
    loss, hidden, codes = JointCodebookLoss(5, 3, 7), torch.randn(2, 6, 5), torch.randint(7, (2, 3, 6))
    logits = loss.logits(hidden, codes)
    assert logits.shape == (2, 3, 6, 7)
    expected = -logits.log_softmax(3).gather(3, codes[..., None]).mean()
    torch.testing.assert_close(loss(hidden, codes), expected)
    torch.testing.assert_close(loss(hidden, codes.to(torch.uint8)), expected)
    changed = codes.clone()
    changed[:, 1] = (changed[:, 1] + 1) % 7
    other = loss.logits(hidden, changed)
    assert torch.equal(other[:, :2], logits[:, :2]) and not torch.equal(other[:, 2], logits[:, 2])


def test_joint_loss_does_not_see_padding():
    torch.manual_seed(0)
    loss, hidden, codes = JointCodebookLoss(5, 3, 7), torch.randn(2, 6, 5), torch.randint(7, (2, 3, 6))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    expected = (loss(hidden[:1], codes[:1]) * 6 + loss(hidden[1:, :4], codes[1:, :, :4]) * 4) / 10
    hidden[1, 4:], codes[1, :, 4:] = float("nan"), 999
    torch.testing.assert_close(loss(hidden, codes, mask), expected)
    loss(hidden, codes, mask).backward()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())
    assert loss(hidden, codes, torch.zeros_like(mask)) == 0


def test_joint_loss_of_one_codebook_is_plain_cross_entropy():
    loss, hidden, codes = JointCodebookLoss(5, 1, 7), torch.randn(2, 6, 5), torch.randint(7, (2, 1, 6))
    expected = torch.nn.functional.cross_entropy(loss.heads(hidden).flatten(0, 1), codes.flatten())
    torch.testing.assert_close(loss(hidden, codes), expected)


def test_joint_loss_refuses_what_does_not_fit():
    loss, hidden, codes = JointCodebookLoss(5, 3, 7), torch.randn(2, 6, 5), torch.randint(7, (2, 3, 6))
    for wrong, message in (
        ((hidden.mT, codes), r"must be \(B, T, 5\)"), ((hidden, codes.mT), r"\(B, K, T\) = \(2, 3, 6\)"),
        ((hidden, codes + 7), "below codebook_size=7"), ((hidden, codes.float()), "integers"),
        ((hidden, codes, torch.ones(2, 6)), "must be bool"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(*wrong)
    for wrong in ((0, 2, 4), (4, 0, 4), (4, 2, 1)):
        with pytest.raises(ValueError, match="must be at least"):
            JointCodebookLoss(*wrong)
