"""A teacher's features, or the letters of transcripts, as a target of training, as a recipe names it."""

from __future__ import annotations

from dataclasses import dataclass

LOSSES = ("d_axis", "t_axis", "cosine", "mse", "ctc")
COMBINATIONS = ("sum", "mean", "each")
HEADS = ("linear", "conv")
SOURCES = ("codes", "content")


@dataclass(frozen=True)
class SemanticTarget:
    """One teacher, or the letters of what is said, and what is to predict it.

    teacher: of which the features are: how the name of a store in semantic.features starts.
    transcripts: file of `codec transcribe` with times of words, in the place of a teacher.
    source: "codes", or "content" for the student of a `fused` encoder.
    codebooks: which, counted from 1. combine: their vectors' "sum", "mean", or "each" by a head of its own.
    loss: "d_axis", "t_axis", "cosine" or "mse"; "ctc" for transcripts. weight: beside the reconstruction's.
    shift: frames by which the target lags, so that a causal codec has heard what the teacher has.
    head: "linear", or "conv", which sees a few frames to both sides (X-Codec's semantic decoder).
    """

    teacher: str = ""
    transcripts: str = ""
    source: str = "codes"
    codebooks: tuple[int, ...] = (1,)
    combine: str = "sum"
    loss: str = "d_axis"
    weight: float = 1.0
    shift: int = 0
    head: str = "linear"

    def __post_init__(self) -> None:
        for name, known in (("source", SOURCES), ("combine", COMBINATIONS), ("loss", LOSSES), ("head", HEADS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: it is {', '.join(known[:-1])} or {known[-1]}")
        if self.loss == "ctc":
            self._check_ctc()
        elif self.transcripts:
            raise ValueError(f"transcripts={self.transcripts} are letters, which loss={self.loss} does not compare: take loss: ctc")
        elif not self.teacher:
            raise ValueError("teacher is missing: name a folder of semantic.features")
        if not self.codebooks or len(set(self.codebooks)) < len(self.codebooks) or min(self.codebooks) < 1:
            raise ValueError(f"codebooks={list(self.codebooks)} are to be different numbers from 1")
        if self.shift < 0 or self.weight <= 0:
            raise ValueError(f"shift={self.shift} is to be at least 0, weight={self.weight} above 0")

    def _check_ctc(self) -> None:
        if not self.transcripts:
            raise ValueError("loss=ctc needs transcripts=FILE, which codec transcribe makes")
        if self.teacher:
            raise ValueError(f"loss=ctc is of letters: leave teacher={self.teacher} out, or make it a target of its own")
        if self.source != "codes":
            raise ValueError(f"loss=ctc is of codes: leave source={self.source} out")
