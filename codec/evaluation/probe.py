"""Probes: what frozen codes tell a small network, with intervals and chance levels.

    report = probe(["speech-16k"], "speech/", tasks=["slots", "speaker"], codebooks="1,1-8")
    report.save("probe.json"); print(report.markdown())
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from codec import hub
from codec.evaluation.probe_characters import Characters
from codec.evaluation.probe_classify import Slots, Speaker
from codec.evaluation.probe_data import recordings
from codec.evaluation.probe_report import Missing, ProbeError, Report
from codec.evaluation.probe_speech import DecodedWords
from codec.evaluation.probe_texts import Texts
from codec.evaluation.probe_tokens import Tokens, codebook_sets
from codec.evaluation.probe_view import LEARNT, VECTORS, View
from codec.evaluation.probe_words import Words

TASKS = ("slots", "speaker", "characters", "words", "dwer")


def probe(
    models: Sequence[str],
    data: str | os.PathLike[str],
    tasks: Sequence[str] = ("slots", "speaker"),
    codebooks: str = "1,all",
    split: str = "train",
    transcripts: str | os.PathLike[str] = "",
    asr: str = "",
    seed: int = 0,
    steps: int | None = None,
    start: str = VECTORS,
    cache: str | os.PathLike[str] = "",
    device: str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Train probes on the codes of models and measure them.

    models     names or folders, as for `codec.load`.
    data       folder or manifest: see `probe_data.recordings`.
    codebooks  sets like "1,3,1-8": see `probe_tokens.codebook_sets`.
    split      which entries of a manifest to take.
    transcripts  file of `codec transcribe`, for characters and words.
    asr        Whisper for dwer: a size or a folder of CTranslate2.
    steps      training steps of each head, in the place of each task's own number.
    start      what vectors of codes start from: "vectors" of the quantizer, or "learnt": random numbers.
    cache      folder for codes; empty for the user's cache folder.
    progress   called with what is done, what there is, and words.

    A task that lacks labels or texts is in `report.skipped` with the reason. Raises ProbeError for unknown tasks and for data
    that is too small for a task, before anything is encoded.
    """
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks:
        raise ProbeError(f"there is no task {unknown[0] if unknown else ''!r}: there are {', '.join(TASKS)}")
    if start not in (VECTORS, LEARNT):
        raise ProbeError(f"start={start!r}: there is {VECTORS} and {LEARNT}")
    if steps is not None and steps < 2:
        raise ProbeError(f"steps={steps}: at least 2 are needed")
    report = Report({
        "data": str(data), "split": split, "tasks": list(tasks), "codebooks": codebooks, "transcripts": str(transcripts), "asr": asr,
        "seed": seed, "steps": steps, "start": start,
    })
    found = recordings(data, split)
    texts = Texts(data, transcripts, cache)
    builders = {
        "slots": lambda: Slots(found), "speaker": lambda: Speaker(found), "characters": lambda: Characters(found, texts),
        "words": lambda: Words(found, texts), "dwer": lambda: DecodedWords(found, asr),
    }
    ready = []
    for name in dict.fromkeys(tasks):
        try:
            ready.append(builders[name]())
        except Missing as reason:
            report.skipped.append({"model": "", "task": name, "codebooks": "", "reason": str(reason)})
    texts.keep()
    for name, label in zip(models, _labels(models)):
        model = hub.load(name, device)
        tokens = Tokens(model, cache)
        report.models.append({
            "model": label, "name": model.config.name, "fingerprint": model.spec.fingerprint, "frame_rate": model.frame_rate,
            "codebook_sizes": list(model.codebook_sizes),
        })
        for chosen in codebook_sets(codebooks, model.num_codebooks):
            for task in ready:
                began = time.process_time()
                try:
                    report.rows += task.measure(View(label, tokens, chosen, seed, steps, start, progress))
                except Missing as reason:
                    report.skipped.append({"model": label, "task": task.name, "codebooks": str(chosen), "reason": str(reason)})
                report.seconds.append({"model": label, "task": task.name, "codebooks": str(chosen),
                                       "cpu_seconds": round(time.process_time() - began, 1)})
    return report


def _labels(models: Sequence[str]) -> list[str]:
    """Short names, or the full ones where two would be the same."""
    short = [Path(name).name for name in models]
    return [name if short.count(last) > 1 else last for name, last in zip(models, short)]
