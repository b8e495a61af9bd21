"""k-means, principal axes and drawing, alone; what two processes make of them is in test_trained_families.py."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from quantizers.codebook import rotate
from quantizers.processes import Processes
from quantizers.rvq import ResidualVQ
from quantizers.start import kmeans, principal_axes

ALONE = Processes(synchronized=False)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_kmeans_finds_clusters(offset):
    torch.manual_seed(0)
    places = 10 * torch.randn(4, 3) + offset
    rows = places.repeat(100, 1) + 0.1 * torch.randn(400, 3)
    found = [kmeans(rows, 4, 20, ALONE)[0] for _ in range(10)]  # from random starts, of which one at least finds all
    assert min(torch.cdist(places, centers).min(1).values.max().item() for centers in found) < 0.1


def test_kmeans_counts_and_averages():
    torch.manual_seed(0)
    rows = torch.randn(500, 3)
    centers, counts = kmeans(rows, 10, 50, ALONE)
    assert counts.sum() == 500
    codes = torch.cdist(rows, centers).argmin(1)
    for index in range(10):
        torch.testing.assert_close(centers[index], rows[codes == index].mean(0), rtol=0, atol=0.05)
        assert abs(int(counts[index]) - int((codes == index).sum())) < 10


def test_kmeans_of_few_and_of_no_rows():
    rows = torch.randn(3, 2)
    centers, counts = kmeans(rows, 8, 5, ALONE)
    assert torch.cdist(rows, centers).min(1).values.max() < 1e-5 and counts.sum() == 3
    assert kmeans(rows[:0], 8, 5, ALONE) is None


def test_kmeans_by_direction():
    torch.manual_seed(0)
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    rows = (directions.repeat(40, 1) + 0.05 * torch.randn(120, 2)) * torch.rand(120, 1).add(0.5)
    found = [F.normalize(kmeans(rows, 3, 10, ALONE, cosine=True)[0], dim=1) for _ in range(10)]
    assert max((centers @ F.normalize(directions, dim=1).T).max(0).values.min().item() for centers in found) > 0.99


@pytest.mark.parametrize("centered", [True, False])
def test_principal_axes(centered):
    torch.manual_seed(0)
    rows = torch.randn(300, 5) @ torch.diag(torch.tensor([5.0, 0.1, 3.0, 0.1, 0.1])) + torch.tensor([0, 20.0, 0, 0, 0])
    mean, axes = principal_axes(rows, 2, ALONE, centered)
    torch.testing.assert_close(axes @ axes.T, torch.eye(2))
    expected = [0, 2] if centered else [1, 0]
    assert axes.abs().argmax(1).tolist() == expected
    torch.testing.assert_close(mean, rows.mean(0) if centered else torch.zeros(5))


def test_drawn_rows_are_different_ones():
    rows = torch.arange(20.0)[:, None]
    assert ALONE.draw(rows, 12).unique().numel() == 12
    assert sorted(ALONE.draw(rows, 50).flatten().tolist()) == rows.flatten().tolist()
    assert ALONE.draw(rows[:0], 5).shape == (0, 1)


def test_the_rotation_trick_is_that_of_vector_quantize_pytorch():
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

    torch.manual_seed(0)
    rows, quantized, weights = torch.randn(30, 6, requires_grad=True), torch.randn(30, 6), torch.randn(30, 6)
    ours, theirs = (fn(rows, quantized) for fn in (rotate, rotate_to))
    torch.testing.assert_close(ours, quantized)
    gradients = [torch.autograd.grad((value * weights).sum(), rows)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(gradients[0], weights)
    rotate(torch.zeros(2, 6, requires_grad=True), quantized[:2]).sum().backward()  # nothing to turn: no NaN


def test_rotation_is_applied_to_the_total():
    torch.manual_seed(0)
    quantizer = ResidualVQ(6, 3, 16, gradient="rotation").eval()
    latents, weights = torch.randn(2, 6, 10, requires_grad=True), torch.randn(2, 6, 10)
    output = quantizer(latents)
    gradient = torch.autograd.grad((output.quantized * weights).sum(), latents)[0]
    total = quantizer.decode(output.codes)
    rotated = rotate(latents.mT.reshape(-1, 6), total.mT.reshape(-1, 6))
    expected = torch.autograd.grad((rotated * weights.mT.reshape(-1, 6)).sum(), latents)[0]
    torch.testing.assert_close(gradient, expected)
