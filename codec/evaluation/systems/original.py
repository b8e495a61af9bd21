"""The recordings as they are, which probes of what systems make of them are held against."""

from __future__ import annotations

from collections.abc import Sequence

from codec.evaluation.metrics.base import Coded
from codec.evaluation.metrics.tasks import RATE
from codec.evaluation.sound import Sound
from codec.evaluation.systems.base import Setting, nearest

ORIGINAL = "original"
BITS = 16


class Original:
    """16 bits a sample, at the rate that probes hear."""

    name, key = ORIGINAL, "1"

    def missing(self) -> str:
        return ""

    def settings(self, wanted: Sequence[float] | None) -> list[Setting]:
        return nearest([Setting("16 bit", BITS * RATE)], wanted)

    def code(self, sound: Sound, setting: Setting) -> Coded:
        return Coded(sound, setting.bitrate * sound.seconds, 0.0, 0.0)
