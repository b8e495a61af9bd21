from __future__ import annotations

import copy
import math
import time

import pytest
import torch
from torch import Tensor

from quantizers.kmeans import KMeansQuantizer, assign, spread_centers


def gaussian(rows: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def blobs(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """rows (N, 3) around 20 places, and these."""
    places = 10 * gaussian(20, 3, 77)
    pick = torch.randint(20, (rows,), generator=torch.Generator().manual_seed(seed))
    return places[pick] + 0.1 * gaussian(rows, 3, seed + 1), places


def error(quantizer: KMeansQuantizer, rows: Tensor, k: int | None = None) -> float:
    latents = rows.T[None]
    return float((quantizer.decode(quantizer.encode(latents, k)) - latents).square().mean())


def make(dim: int, books: int = 1, size: int = 16, seed: int = 0) -> KMeansQuantizer:
    torch.manual_seed(seed)
    return KMeansQuantizer(dim, books, size)


# Fitting to all features


def test_it_finds_the_clusters():
    rows, places = blobs(2000)
    quantizer = make(3, 1, 20).fit(rows)
    nearest = torch.cdist(places, quantizer.codebooks[0]).min(1).values
    assert nearest.max() < 0.05 and error(quantizer, rows) < 0.0105


def test_each_center_is_the_mean_of_its_rows():
    rows = gaussian(2000, 4)
    quantizer = make(4, 1, 16).fit(rows, iterations=500)
    codes = quantizer.encode(rows.T[None])[0, 0]
    for code in range(16):
        torch.testing.assert_close(quantizer.codebooks[0, code], rows[codes == code].mean(0), atol=0.05, rtol=0)


def test_more_iterations_err_less():
    rows = gaussian(5000, 8)
    few, many = (error(make(8, 1, 128).fit(rows, iterations=iterations), rows) for iterations in (1, 25))
    assert many < 0.97 * few


@pytest.mark.parametrize("dim, size, most", [(2, 16, 2.7), (4, 256, 2.3), (8, 256, 1.5)])
def test_error_is_near_the_shannon_bound(dim, size, most):
    quantizer = make(dim, 1, size).fit(gaussian(20_000, dim))
    above = 10 * math.log10(error(quantizer, gaussian(10_000, dim, 1)) / 2 ** (-2 * math.log2(size) / dim))
    print(f"kmeans {size} of {dim}: {above:.2f} dB above the Shannon bound")
    assert 0 < above < most


def test_every_codebook_errs_less():
    rows = gaussian(8000, 6) * torch.logspace(0, -1, 6) + 3
    quantizer = make(6, 4, 32).fit(rows)
    errors = [error(quantizer, rows, k) for k in range(1, 5)]
    assert all(after < 0.7 * before for before, after in zip(errors, errors[1:]))


def test_decoded_features_have_the_same_codes():
    for offset in (0, 1000):  # far from zero, too
        rows = gaussian(4000, 8) + offset
        quantizer = make(8, 1, 256).fit(rows)
        codes = torch.arange(256)[None, None]
        assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)
        assert quantizer.encode(rows.T[None]).unique().numel() == 256


def test_batches_are_fitted_as_one():
    rows = gaussian(6000, 6)
    whole, parts = make(6, 2, 32).fit(rows), make(6, 2, 32).fit(list(rows.split(700)))
    assert abs(error(whole, rows) / error(parts, rows) - 1) < 0.02

    class DataSet:
        def __iter__(self):
            return iter(rows.split(1000))

    assert abs(error(make(6, 2, 32).fit(DataSet()), rows) / error(whole, rows) - 1) < 0.02


def test_fewer_rows_than_codes_are_fitted_exactly():
    rows = gaussian(10, 4)
    quantizer = make(4, 2, 32).fit(rows)
    assert error(quantizer, rows) < 1e-10 and quantizer.codebooks.isfinite().all()
    same = make(4, 2, 32).fit(torch.full((50, 4), 3.0))
    assert error(same, torch.full((5, 4), 3.0)) < 1e-10


def test_it_is_quick():
    """An eighth of 30,000 rows of 512 dimensions with 1024 centers, which take well under a minute on one core."""
    rows = gaussian(4096, 256)
    start = time.perf_counter()
    make(256, 1, 512).fit(rows)
    assert time.perf_counter() - start < 10


def test_fit_replaces_what_was_there():
    quantizer = make(4).fit(gaussian(500, 4))
    quantizer.fit(gaussian(500, 4) + 100)
    assert error(quantizer, gaussian(500, 4, 1) + 100) < 0.6


# Fitting to a stream


@pytest.mark.parametrize("batch", [10, 300, 5000])
def test_a_stream_is_fitted_nearly_as_well(batch):
    rows, test = gaussian(10_000, 6), gaussian(4000, 6, 1)
    whole, stream = make(6, 2, 64).fit(rows), make(6, 2, 64)
    for part in rows.split(batch):
        stream.partial_fit(part)
    assert error(stream, test) < 1.06 * error(whole, test)
    assert stream.encode(test.T[None])[0, 0].unique().numel() > 0.95 * 64


def test_the_first_rows_alone_do():
    quantizer = make(4, 1, 16).partial_fit(gaussian(5, 4))
    assert error(quantizer, gaussian(5, 4)) < 1e-10
    assert quantizer.partial_fit(torch.zeros(0, 4)) is quantizer


def test_codes_far_from_all_rows_move_there():
    rows, _ = blobs(4000)
    quantizer = make(3, 1, 20).fit(rows[:500])
    quantizer.codebooks[0, :10] = 1000.0
    quantizer.trainer_counts[0, :10] = 0
    for part in rows.split(200):
        quantizer.partial_fit(part)
    assert quantizer.codebooks.abs().max() < 100 and quantizer.encode(rows.T[None]).unique().numel() > 15


def test_a_code_is_the_mean_of_its_rows():
    quantizer = make(2, 1, 2)
    quantizer.codebooks[0] = torch.tensor([[0.0, 0.0], [10.0, 10.0]])
    quantizer.trainer_counts[0] = 4.0
    quantizer.partial_fit(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    torch.testing.assert_close(quantizer.codebooks[0], torch.tensor([[4 / 6, 0.0], [10.0, 10.0]]))
    torch.testing.assert_close(quantizer.trainer_counts[0], torch.tensor([6.0, 4.0]))


def test_a_stream_goes_on_from_a_fit_and_after_loading():
    rows = gaussian(2000, 4)
    quantizer = make(4).fit(rows)
    loaded = make(4, seed=3)
    loaded.load_state_dict(quantizer.state_dict())
    before = quantizer.codebooks.clone()
    for fitted in (quantizer, loaded):
        torch.manual_seed(0)
        fitted.partial_fit(gaussian(100, 4, 5))
    assert torch.equal(loaded.codebooks, quantizer.codebooks)
    assert 0 < (quantizer.codebooks - before).abs().max() < 0.5


# Training


def test_training_goes_on_from_what_was_fitted():
    rows = gaussian(4000, 4) + 5
    quantizer = make(4, 2, 32).fit(rows).train()
    fitted = copy.deepcopy(quantizer.codebooks)
    output = quantizer(rows[:500].T[None])
    assert (quantizer.codebooks - fitted).abs().max() < 0.2
    torch.testing.assert_close(output.quantized, quantizer.decode(output.codes), atol=0.2, rtol=0)
    errors = [quantizer(gaussian(500, 4, step).T[None]).stats["relative_error"][-1] for step in range(100)]
    assert errors[-1] < 0.1 * errors[0]  # they follow the latents
    quantizer.partial_fit(gaussian(500, 4, 3))
    assert torch.equal(quantizer.trainer[0].codebook, quantizer.codebooks[0])


def test_a_stream_goes_on_from_training():
    quantizer = make(4, 1, 16).train()
    for step in range(5):
        quantizer(gaussian(500, 4, step).T[None] + 3)
    before = quantizer.codebooks.clone()
    quantizer.partial_fit(gaussian(100, 4, 9) + 3)
    assert 0 < (quantizer.codebooks - before).abs().max() < 0.5


# Parts


def test_assign_is_the_nearest_far_from_zero():
    rows, centers = gaussian(1000, 8) + 1000, gaussian(50, 8, 1) + 1000
    codes, total = assign(rows, centers)
    distances = torch.cdist(rows.double(), centers.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert (codes == distances.argmin(1)).float().mean() > 0.99
    assert abs(total / float(distances.min(1).values.square().sum()) - 1) < 1e-3


def test_centers_start_apart():
    torch.manual_seed(0)
    rows, places = blobs(2000)
    centers = spread_centers(rows, 20)
    assert len(torch.cdist(centers, places).argmin(1).unique()) >= 17  # as many random rows would meet 13


@pytest.mark.parametrize("features, message", [
    (torch.zeros(5, 3), r"must be \(N, 4\)"), (torch.zeros(1, 4, 5), r"must be \(N, 4\)"),
    (torch.full((5, 4), torch.nan), "NaN"), (torch.zeros(0, 4), "no features"), ([], "no features"),
    (iter([torch.zeros(5, 4)]), "only once.*partial_fit"),
])
def test_features_that_do_not_fit_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        make(4).fit(features)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"must be \(N, 4\)"):
        make(4).partial_fit(torch.zeros(4, 5))
    with pytest.raises(ValueError, match="iterations=0"):
        make(4).fit(torch.zeros(9, 4), iterations=0)
    with pytest.raises(ValueError, match="outside 2..65536"):
        KMeansQuantizer(4, 1, 1)
