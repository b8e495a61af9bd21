"""A probe of what is said, letter by letter: connectionist temporal classification on frozen codes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.evaluation.edits import edits
from codec.evaluation.probe_data import Recording
from codec.evaluation.probe_heads import CodeVectors, draws, optimise, padded, start_tables
from codec.evaluation.probe_report import LOWER, Missing, ProbeError, Score, bootstrap
from codec.evaluation.probe_texts import Texts
from codec.evaluation.probe_view import View
from codec.semantic.letters import LETTERS, numbered, spelled

FOLDS = 5  # one of them is for testing
MIN_TRAIN, MIN_TEST = 50, 10
MOST = 0.5  # of the recordings for testing: a part with one speaker who has most of them is passed over
BATCH = 16
WIDTH = 64
NOISE = 64  # random codes
TRUNK_RATE, LETTER_RATE = 25.0, 50.0  # frames a second inside, and places for letters


class Characters:
    """The letters of the text, in order: a fifth of the speakers (of the files where speakers are not known) is for testing.
    Character errors per character of the text. Chance: the same network, trained likewise on random codes of the same
    lengths."""

    name, steps = "characters", 600

    def __init__(self, found: Sequence[Recording], texts: Texts):
        told = [(recording, text) for recording in found if (text := spelled(texts.text(recording)))]
        if not told:
            raise Missing("no texts are known: give --transcripts a file of `codec transcribe`, or `text` in the manifest")
        self.recordings = [recording for recording, _ in told]
        self.texts = [text for _, text in told]
        folds = np.array([recording.fold(FOLDS) for recording in self.recordings])
        shares = [(folds == fold).mean() for fold in range(FOLDS)]
        self.tested = folds == next((fold for fold, share in enumerate(shares) if 0 < share < MOST), 0)
        if (~self.tested).sum() < MIN_TRAIN or self.tested.sum() < MIN_TEST:
            raise ProbeError(
                f"characters: {(~self.tested).sum()} recordings with texts to train on and {self.tested.sum()} of other "
                f"speakers to test are too few, {MIN_TRAIN} and {MIN_TEST} are needed: add some, or leave the task out of --tasks"
            )
        self._blind: dict[tuple[float, int, int], float] = {}

    def measure(self, view: View) -> Iterator[Score]:
        codes = view.codes(self.recordings)
        errors, letters = self._errors(view, codes, view.tables(), "characters")
        blind = (view.frame_rate, view.steps(self.steps), view.seed)
        if blind not in self._blind:
            generator = torch.Generator().manual_seed(view.seed)
            nothing = [torch.randint(0, NOISE, (1, code.shape[1]), generator=generator) for code in codes]
            wrong, _ = self._errors(view, nothing, start_tables([None], [NOISE], view.seed), "characters from noise")
            self._blind[blind] = float(wrong.sum() / letters.sum())
        estimate = bootstrap(errors, letters, view.seed)
        yield view.score(self.name, "", "network", "character error rate", LOWER, estimate, self._blind[blind], len(errors),
                         "recordings")

    def _errors(
        self, view: View, codes: list[Tensor], tables: Sequence[Tensor], label: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of each tested recording the wrong letters, and the letters there are."""
        train, test = np.flatnonzero(~self.tested), np.flatnonzero(self.tested)
        rng = np.random.default_rng(view.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(view.seed)
            head = Writer(tables, view.frame_rate)

            def losses() -> Iterator[Tensor]:
                for rows in draws(len(train), min(BATCH, len(train)), rng):
                    rows = train[rows]
                    log_probs, lengths = head(*padded([codes[row] for row in rows]))
                    targets = [torch.tensor(numbered(self.texts[row])) for row in rows]
                    sizes = torch.tensor([len(each) for each in targets])
                    yield F.ctc_loss(log_probs.transpose(0, 1), torch.cat(targets), lengths, sizes, zero_infinity=True)

            optimise(head, losses(), view.steps(self.steps), progress=view.step(label))
            head.eval()
            with torch.no_grad():
                written = [head.write(codes[row]) for row in test]
        wrong = [edits(self.texts[row], text) for row, text in zip(test, written)]
        return np.array(wrong), np.array([len(self.texts[row]) for row in test])


class Writer(nn.Module):
    """Codes to log probabilities of letters: dilated convolutions at about 25 frames a second, which hear 1.2 s to both sides,
    and as many places for letters in a frame as make 50 a second."""

    def __init__(self, tables: Sequence[Tensor], frame_rate: float):
        super().__init__()
        self.vectors = CodeVectors(tables)
        self.stride = max(1, round(frame_rate / TRUNK_RATE))
        self.places = math.ceil(LETTER_RATE * self.stride / frame_rate)
        self.start = nn.Conv1d(tables[0].shape[1], WIDTH, 2 * self.stride + 1, stride=self.stride, padding=self.stride)
        self.layers = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 5, dilation=2**n, padding=2 * 2**n) for n in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in range(5))
        self.drop = nn.Dropout(0.1)
        self.out = nn.Conv1d(WIDTH, self.places * (len(LETTERS) + 1), 1)

    def forward(self, codes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """codes (B, K, T), mask (B, T) to log probabilities (B, T', letters + 1) with the blank first, and lengths (B,)."""
        inside = mask[:, :: self.stride][:, None]
        frames = F.relu(self.norms[0](self.start(self.vectors(codes, mask)))) * inside
        for layer, norm in zip(self.layers, self.norms[1:]):
            frames = frames + self.drop(F.relu(norm(layer(frames)))) * inside
        logits = self.out(frames).unflatten(1, (self.places, -1))  # (B, places, letters + 1, T / stride)
        logits = logits.permute(0, 3, 1, 2).flatten(1, 2)
        return logits.log_softmax(2), inside.sum((1, 2)) * self.places

    def write(self, codes: Tensor) -> str:
        """codes (K, T) to a text: the best letter of each place, repetitions and blanks left out."""
        log_probs, _ = self(*padded([codes]))
        best = torch.unique_consecutive(log_probs[0].argmax(1)).tolist()
        return " ".join("".join(LETTERS[each - 1] for each in best if each).split())
