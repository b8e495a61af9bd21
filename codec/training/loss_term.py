"""What every term of the reconstruction loss shares: its resolutions, and spectra that terms have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from codec.training.spectra import Pair, Resolution, Spectrum


class Term(nn.Module):
    """A term maps a :class:`Pair` to a scalar. Crops of fewer than ``shortest`` samples tell it nothing.

    n_ffts   the resolutions that it looks at (None: at none): lengths of the transforms,
    hops     and of their hops (default: a quarter of each)
    windows  and Hann windows (default: as long as the transforms), all in samples.
    """

    shortest = 0

    def __init__(
        self,
        n_ffts: Sequence[int] | None = None,
        hops: Sequence[int] | None = None,
        windows: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if n_ffts is not None and not len(n_ffts):
            raise ValueError("a spectral loss needs at least one n_fft; leave the option out for the default ones")
        n_ffts = n_ffts or ()
        hops = [n_fft // 4 for n_fft in n_ffts] if hops is None else hops
        windows = n_ffts if windows is None else windows
        if not len(n_ffts) == len(hops) == len(windows):
            raise ValueError(
                f"a spectral loss needs one hop and window per n_fft, not {len(hops)} and {len(windows)} "
                f"for {len(n_ffts)}"
            )
        self.resolutions = [Resolution(*sizes) for sizes in zip(n_ffts, hops, windows)]
        for size in self.resolutions:
            if size.n_fft < 4 or size.n_fft % 4:
                raise ValueError(f"a spectrum needs a window of a multiple of 4 samples, not {size.n_fft}")
            if not 0 < size.hop <= size.window <= size.n_fft:
                raise ValueError(
                    f"a spectrum of n_fft {size.n_fft} cannot have a hop of {size.hop} and a window of {size.window}; "
                    "give 0 < hop <= window <= n_fft"
                )
            window = F.pad(torch.hann_window(size.window), ((size.n_fft - size.window) // 2, 0))
            window = F.pad(window, (0, size.n_fft - len(window)))
            self.register_buffer(self._name(size), window, persistent=False)

    @staticmethod
    def _name(size: Resolution) -> str:
        return "window_" + "_".join(map(str, size))

    def spectra(self, pair: Pair, resolution: Resolution) -> tuple[Spectrum, Spectrum]:
        """Of decoded and target."""
        return pair.spectra(resolution, getattr(self, self._name(resolution)))
