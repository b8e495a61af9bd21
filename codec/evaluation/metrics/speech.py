"""Quality and intelligibility of speech against the original: PESQ, STOI, ESTOI."""

from __future__ import annotations

import numpy as np

from codec.evaluation.metrics.base import EXTRA, HIGHER, Coded, Metric, Options, Unjudged
from codec.evaluation.sound import Sound

LEAST = 1.0  # of PESQ's scale, where nothing is left of the speech
PESQ = {
    "install": EXTRA, "modules": ("pesq",), "licence": "MIT (pesq 0.0.4); the method is ITU-T's", "unit": "MOS-LQO",
    "better": HIGHER, "digits": 2,
}
STOI = {"install": EXTRA, "modules": ("pystoi",), "licence": "MIT (pystoi)", "unit": "0 to 1", "better": HIGHER}


class Pesq:
    """PESQ at 16 kHz (wide band) or 8 kHz (narrow band)."""

    def __init__(self, metric: Metric, mode: str, rate: int):
        self.metrics, self.mode, self.rate = (metric,), mode, rate

    def __call__(self, original: Sound, coded: Coded) -> dict[str, float]:
        from pesq import NoUtterancesError, pesq

        if original.unheard:
            raise Unjudged(original.unheard)
        decoded, value = coded.sound.at(self.rate), LEAST
        if np.abs(decoded).max() > 1e-5:  # the package fails on digital silence
            try:
                value = float(pesq(self.rate, original.at(self.rate), decoded, self.mode))
            except NoUtterancesError:
                pass
        return {self.metrics[0].name: value}


class WidePesq(Pesq):
    metrics = (Metric("pesq-wb", "PESQ-wb", source="ITU-T P.862.2", **PESQ),)

    def __init__(self, options: Options):
        super().__init__(self.metrics[0], "wb", 16_000)


class NarrowPesq(Pesq):
    metrics = (Metric("pesq-nb", "PESQ-nb", source="ITU-T P.862 with P.862.1", **PESQ),)

    def __init__(self, options: Options):
        super().__init__(self.metrics[0], "nb", 8000)


class Stoi:
    """Short-time objective intelligibility. The package resamples to 10 kHz; it gets 16 kHz, as elsewhere in the field."""

    metrics = (Metric("stoi", "STOI", source="Taal et al. 2011", **STOI),)
    extended, rate = False, 16_000

    def __init__(self, options: Options):
        pass

    def __call__(self, original: Sound, coded: Coded) -> dict[str, float]:
        from pystoi import stoi

        if original.unheard:
            raise Unjudged(original.unheard)
        value = stoi(original.at(self.rate), coded.sound.at(self.rate), self.rate, extended=self.extended)
        return {self.metrics[0].name: float(value)}


class Estoi(Stoi):
    metrics = (Metric("estoi", "ESTOI", source="Jensen and Taal 2016", **STOI),)
    extended = True
