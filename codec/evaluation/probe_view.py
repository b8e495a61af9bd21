"""What a task sees of a model: the codes of one set of codebooks, and helpers around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from codec.evaluation.probe_data import Recording
from codec.evaluation.probe_heads import start_tables
from codec.evaluation.probe_report import Estimate, Score
from codec.evaluation.probe_tokens import CodebookSet, Tokens, code_vectors

Progress = Callable[[int, int, str], None]
VECTORS, LEARNT = "vectors", "learnt"


@dataclass
class View:
    """One set of codebooks of one model.

    name: of the model in the report; seed: of heads and resampling; only_steps: training steps of every head, None for those
    of the task; start: "vectors" or "learnt", what the vectors of codes start from.
    """

    name: str
    tokens: Tokens
    codebooks: CodebookSet
    seed: int = 0
    only_steps: int | None = None
    start: str = VECTORS
    progress: Progress | None = None

    @property
    def frame_rate(self) -> float:
        return self.tokens.spec.frame_rate

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.tokens.spec.codebook_sizes[self.codebooks.rows]

    def frames(self, seconds: float) -> int:
        return max(1, round(seconds * self.frame_rate))

    def steps(self, default: int) -> int:
        return default if self.only_steps is None else self.only_steps

    def codes(self, recordings: Sequence[Recording]) -> list[Tensor]:
        """Of each recording (k, T) int64."""
        return [codes[self.codebooks.rows] for codes in self.tokens.of(recordings, self.progress)]

    def vectors(self) -> list[Tensor | None]:
        """Of each codebook here (size, dim), or None: see `code_vectors`."""
        return [code_vectors(self.tokens.model.quantizer, k) for k in range(self.codebooks.first, self.codebooks.last + 1)]

    def tables(self) -> list[Tensor]:
        vectors = self.vectors() if self.start == VECTORS else [None] * len(self.sizes)
        return start_tables(vectors, self.sizes, self.seed)

    def step(self, label: str) -> Callable[[int, int], None] | None:
        if self.progress is None:
            return None
        return lambda done, total: self.progress(done, total, f"{label}, codebooks {self.codebooks}")

    def score(
        self, task: str, part: str, head: str, metric: str, better: str, estimate: Estimate, chance: float, count: int,
        unit: str, note: str = "",
    ) -> Score:
        interval = estimate.value, estimate.low, estimate.high
        return Score(self.name, task, part, str(self.codebooks), head, metric, better, *interval, chance, count, unit, note)
