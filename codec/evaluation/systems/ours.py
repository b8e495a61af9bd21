"""Models that `codec.load` reads: those in the box, folders, hub ids, and the checkpoints of a training folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codec.audio.normalizing import FARTHEST, SHARE
from codec.evaluation.metrics.base import Coded
from codec.evaluation.sound import Sound
from codec.evaluation.systems.base import Clock, Setting, SystemsError, kbps, nearest

if TYPE_CHECKING:
    from codec.entropy import Prior
    from codec.tokens import Tokens

CONFIG = "config.json"
LAST, BEST = "model", "best"  # folders that training writes
CHECKPOINTS, STEPS = "checkpoints", "steps"


class Ours:
    """A model. A recording is encoded once with all codebooks, and each setting decodes the first k of them; the time of
    encoding is that of all. Where the model's own search has a beam, which finds better codes when it knows of no more
    than k codebooks, and where codes are refined, each setting is encoded on its own.

    refine: steps of analysis by synthesis (`codec.refinement`). Recordings are brought to the level and spectrum that the
    model codes best, as `codec encode` does."""

    def __init__(self, source: str, name: str, refine: int = 0):
        self.model_source, self.name, self._refine = source, name, refine
        folder = Path(source)
        self.step = int(folder.name) if folder.parent.name == CHECKPOINTS and folder.name.isdecimal() else None
        self._loaded = self._last = None

    @property
    def source(self) -> str:
        """What `systems.build` makes it of again."""
        return f"{self.model_source}+{self._refine}" if self._refine else self.model_source

    @property
    def model(self):
        if self._loaded is None:
            from codec import hub, refinement

            loaded = hub.load(self.model_source)
            if self._refine:
                refinement.check(loaded, self._refine)
            loaded.decode(loaded.encode(np.zeros(loaded.sample_rate // 2, np.float32), refine=min(1, self._refine)))  # warm
            self._loaded = loaded
        return self._loaded

    @property
    def key(self) -> str:
        from codec import refinement

        spec, search = self.model.spec, self.model.quantizer.searched_by
        refined = f"refined{self._refine}-{refinement.settings()}" if self._refine else ""
        normal = self.model.normal
        level = "" if normal is None else f"level{normal.level:g}"
        if normal is not None and normal.spectrum:
            equalized = hashlib.sha256(repr((normal.spectrum, SHARE, FARTHEST)).encode()).hexdigest()[:8]
            level += f"-spectrum{equalized}"
        return "-".join(filter(None, (spec.fingerprint, spec.decoder_fingerprint, search, refined, level)))

    @property
    def facts(self) -> dict[str, Any]:
        """Of its codes: entries of each codebook, seconds of a frame, and what names its prior, empty without one; where it is a
        model of a step of training, the run and the step."""
        try:
            prior = self.prior.id.hex() if self.prior else ""
        except ValueError:
            prior = "unreadable"
        place = {} if self.step is None else {"run": Path(self.model_source).parent.parent.name, "step": self.step}
        return {"sizes": list(self.model.codebook_sizes), "frame_seconds": 1 / self.model.frame_rate, "prior": prior, **place}

    @cached_property
    def prior(self) -> Prior | None:
        """For entropy coding. Raises ValueError for one that cannot be read."""
        from codec import hub
        from codec.entropy import FILE, Prior

        path = hub.find(self.model_source) / FILE
        return Prior.load(path) if path.is_file() else None

    def missing(self) -> str:
        return ""

    def settings(self, wanted: Sequence[float] | None) -> list[Setting]:
        return nearest([Setting(f"k={k}", self.model.bitrate(k)) for k in self.model.quantizer.counts], wanted)

    def code(self, sound: Sound, setting: Setting) -> Coded:
        model, k = self.model, int(setting.name.removeprefix("k="))
        encoding = Clock()
        count = k if model.quantizer.searched_by or self._refine else model.quantizer.num_codebooks
        if self._last is None or self._last[0] is not sound or self._last[1].codes.shape[1] != count:
            with encoding.running():
                tokens = self._encoded(sound.wav, sound.rate, num_codebooks=count)
            self._last = sound, tokens, encoding.seconds
        _, tokens, seconds = self._last
        tokens = tokens.truncate(k)
        return self._coded(sound, tokens, tokens.num_frames * model.quantizer.bits_per_frame(k), seconds, k)

    def _encoded(self, wav: np.ndarray, rate: int, **how: Any) -> Tokens:
        return self.model.encode(wav, rate, refine=self._refine, normalize=True, **how)

    def _coded(self, sound: Sound, tokens: Tokens, bits: float, seconds: float, k: int) -> Coded:
        """seconds: of encoding. k: codebooks of these tokens."""
        model, decoding = self.model, Clock()
        with decoding.running():
            decoded = model.decode(tokens)[0, 0].numpy()
        return Coded(
            Sound(decoded, sound.rate), bits, seconds, decoding.seconds, codes=tokens.codes[0].numpy(),
            sizes=tuple(model.codebook_sizes[:k]), frame_seconds=1 / model.frame_rate,
            recode=lambda wav: self._encoded(wav, sound.rate, num_codebooks=k).codes[0].numpy(),
            blocks=lambda: (_bits_of_blocks(tokens, self.prior), _bits_of_blocks(tokens, None)),
        )


class VariableRate(Ours):
    """A model whose codes, refined or not, take any bitrate on average (`codec.allocation`); its bits are those of the payloads of a .tok file. It
    gives no codes to be judged: how many of a frame's mean something varies."""

    @property
    def source(self) -> str:
        return f"{self.model_source}+{self._refine}v"

    @property
    def key(self) -> str:
        from codec import allocation, blockwise, refinement

        how = refinement.VOICE if self._refine else (blockwise.BLOCK, blockwise.PART)
        settings = hashlib.sha256(repr((how, allocation.SETTINGS)).encode()).hexdigest()[:8]
        return f"{super().key}-variable-{self.prior.id.hex()}-{settings}"

    @cached_property
    def prior(self) -> Prior:
        from codec import hub

        return hub.prior_of(self.model_source, variable=True)

    def settings(self, wanted: Sequence[float] | None) -> list[Setting]:
        low, high = self.model.bitrate(1), self.model.bitrate()
        if wanted is None:
            wanted = [self.model.bitrate(k) for k in self.model.quantizer.counts]
        return [Setting(kbps(rate), rate) for rate in sorted(set(wanted)) if low <= rate <= high]

    def code(self, sound: Sound, setting: Setting) -> Coded:
        encoding = Clock()
        with encoding.running():
            tokens = self._encoded(sound.wav, sound.rate, bitrate=setting.bitrate, variable=self.prior)
        coded = self._coded(sound, tokens, payload_bits(tokens, self.prior), encoding.seconds, tokens.num_codebooks)
        return replace(coded, codes=None, sizes=(), recode=None)


def payload_bits(tokens: Tokens, prior: Prior) -> int:
    """Of the blocks of a .tok file, without what frames them."""
    from codec.container.layout import BLOCK, BLOCK_FRAMES, CRC

    return _bits_of_blocks(tokens, prior) - 8 * -(-tokens.num_frames // BLOCK_FRAMES) * (BLOCK.size + CRC.size)


def _bits_of_blocks(tokens: Tokens, prior: Prior | None) -> int:
    """Of a .tok file, without its header and end."""
    from codec.container import TokWriter

    file, spec = io.BytesIO(), tokens.spec
    with TokWriter(file, spec, tokens.codes.shape[1], tokens.sample_rate, 1, prior) as writer:
        before = file.tell()
        writer.write(tokens.codes)
        writer.flush()
        size = file.tell() - before
        writer.finish(tokens.num_samples[0])
    return 8 * size


def checkpoints(folder: Path, which: Sequence[str]) -> dict[str, str]:
    """Name -> folder of the models of a training folder, in the order of their steps, then last and best; only those named by
    `which` where that is not empty, "steps" for all models of steps. Raises SystemsError."""
    found = {path.name: path for path in sorted((folder / CHECKPOINTS).glob("*")) if (path / CONFIG).is_file()}
    found |= {name: folder / sub for name, sub in (("last", LAST), ("best", BEST)) if (folder / sub / CONFIG).is_file()}
    if STEPS in which:
        which = [*which, *(name for name in found if name.isdecimal())]
    absent = [name for name in which if name not in found and not (name == STEPS and len(which) > 1)]
    if absent:
        raise SystemsError(f"{folder} has no checkpoint {absent[0]!r}: it has {', '.join(found) or 'none yet'}")
    return {f"{folder.name}/{name}": str(path) for name, path in found.items() if not which or name in which}


def is_training(folder: Path) -> bool:
    """Whether it is a folder that `codec train` writes: no model itself, but models in it."""
    return folder.is_dir() and not (folder / CONFIG).is_file() and any(
        (folder / sub / CONFIG).is_file() for sub in (LAST, BEST)
    ) or folder.is_dir() and any((folder / CHECKPOINTS).glob(f"*/{CONFIG}"))
