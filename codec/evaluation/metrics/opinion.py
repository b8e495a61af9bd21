"""Opinions that networks predict of the decoded speech alone, and ViSQOL, which compares it with the original."""

from __future__ import annotations

import contextlib
import io
import logging
import math

import numpy as np

from codec.evaluation.metrics.base import HIGHER, Coded, Metric, Options, Unjudged
from codec.evaluation.sound import Sound

RATE = 16_000
SPEECHMOS = {"install": "pip install speechmos librosa onnxruntime requests tqdm pandas", "modules": ("speechmos", "librosa", "onnxruntime"),
             "licence": "MIT (speechmos, with its weights)", "better": HIGHER, "unit": "MOS, 1 to 5", "level": "alone", "digits": 2}


class DistillMos:
    metrics = (
        Metric("distill-mos", "Distill-MOS", "MOS, 1 to 5", HIGHER, "Stahl and Gamper 2025", "MIT (distillmos, with its weights)",
               "pip install distillmos", ("distillmos",), "alone", digits=2),
    )

    def __init__(self, options: Options):
        from distillmos import ConvTransformerSQAModel

        self._model = ConvTransformerSQAModel().eval()

    def __call__(self, original: Sound, coded: Coded) -> dict[str, float]:
        import torch

        if original.unheard:
            raise Unjudged(original.unheard)
        with torch.no_grad():
            return {"distill-mos": float(self._model(torch.from_numpy(coded.sound.at(RATE))[None]))}


class DnsMos:
    """DNSMOS P.835: of the whole, the speech and the background; and P.808. Recordings below 9 s are repeated."""

    metrics = (
        Metric("dnsmos", "DNSMOS", source="Reddy et al. 2022 (P.835, overall)", **SPEECHMOS),
        Metric("dnsmos-sig", "DNSMOS speech", source="Reddy et al. 2022 (P.835, SIG)", **SPEECHMOS),
        Metric("dnsmos-bak", "DNSMOS background", source="Reddy et al. 2022 (P.835, BAK)", **SPEECHMOS),
        Metric("dnsmos-p808", "DNSMOS P.808", source="Reddy et al. 2021", **SPEECHMOS),
    )

    def __init__(self, options: Options):
        from speechmos import dnsmos

        self._run = dnsmos.run

    def __call__(self, original: Sound, coded: Coded) -> dict[str, float]:
        if original.unheard:
            raise Unjudged(original.unheard)
        found = self._run(np.clip(coded.sound.at(RATE), -1, 1), RATE)
        kinds = {"dnsmos": "ovrl_mos", "dnsmos-sig": "sig_mos", "dnsmos-bak": "bak_mos", "dnsmos-p808": "p808_mos"}
        return {name: float(found[key]) for name, key in kinds.items()}


class PlcMos:
    """PLCMOS v2, the mean over 15 raters that it draws; they are the same for every recording."""

    metrics = (Metric("plcmos", "PLCMOS", source="Diener et al. 2023 (v2)", **SPEECHMOS),)

    def __init__(self, options: Options):
        from speechmos import plcmos

        self._run = plcmos.run

    def __call__(self, original: Sound, coded: Coded) -> dict[str, float]:
        if original.unheard:
            raise Unjudged(original.unheard)
        state = np.random.get_state()
        np.random.seed(0)
        try:
            return {"plcmos": float(self._run(np.clip(coded.sound.at(RATE), -1, 1), RATE)["plcmos"])}
        finally:
            np.random.set_state(state)


class Visqol:
    """ViSQOL v3 for speech at 16 kHz, by a port to Python of Google's program. With ai-edge-litert it maps similarity to
    opinions by the lattice network of that program, without it by the polynomial of earlier ones, which gives other values."""

    metrics = (
        Metric("visqol", "ViSQOL", "MOS-LQO, 1 to 5", HIGHER, "Chinen et al. 2020 (v3, speech)", "Apache-2.0 (visqol-python)",
               "pip install visqol-python ai-edge-litert", ("visqol", "ai_edge_litert"), digits=2),
    )

    def __init__(self, options: Options):
        from visqol import VisqolApi

        logging.getLogger("visqol").setLevel(logging.ERROR)
        self._api = VisqolApi()
        self._api.create(mode="speech", use_lattice_model=True)

    def __call__(self, original: Sound, coded: Coded) -> dict[str, float]:
        if original.unheard:
            raise Unjudged(original.unheard)
        with contextlib.redirect_stdout(io.StringIO()):
            pair = (each.at(RATE).astype(np.float64) for each in (original, coded.sound))
            value = float(self._api.measure_from_arrays(*pair, RATE).moslqo)
        if math.isnan(value):
            raise Unjudged("ViSQOL finds nothing to compare")
        return {"visqol": value}
