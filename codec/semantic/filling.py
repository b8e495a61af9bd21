"""Filling a feature store: a teacher runs once over a corpus."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from codec.semantic.features import FeatureStore, content_key
from codec.semantic.store_files import StoreError
from codec.training.data import SILENT_FILE, DataError, decode

if TYPE_CHECKING:
    from codec.semantic.teachers import Teacher
    from codec.semantic.text import TextTeacher


@dataclass
class Report:
    """What a run did. seconds: of audio whose features were added. skipped: (path, reason)."""

    added: int = 0
    present: int = 0
    seconds: float = 0.0
    skipped: list[tuple[str, str]] = field(default_factory=list)


def compute(
    paths: Iterable[str | os.PathLike[str]], teacher: Teacher, store: FeatureStore,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Run a teacher once over audio files, each as a whole. Files that are in the store are not run again; silent
    ones (peaks below -50 dBFS) and unreadable ones are skipped with a reason.

    progress: called as (files done, files). Raises StoreError where the store is another teacher's.
    """

    def heard(wav: np.ndarray, key: str) -> tuple[Tensor, None]:
        if np.abs(wav.astype(np.int32)).max() < SILENT_FILE * 32767:
            raise DataError("it is silent")
        return teacher.features(wav.astype(np.float32) / np.float32(32767)), None

    return fill(paths, teacher, store, heard, progress)


def fill(
    paths: Iterable[str | os.PathLike[str]], teacher: Teacher | TextTeacher, store: FeatureStore,
    features: Callable[[np.ndarray, str], tuple[Tensor, Tensor | None]],
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Add what is not in the store yet. Files that cannot be read or kept are skipped with a reason.

    features: a recording's samples (T,) int16 at the teacher's rate and its key to what `FeatureStore.add` takes:
    features (F, D), and which are valid (F,) bool or None. Its DataErrors are reasons to skip a file.
    progress: called as (files done, files). Raises StoreError where the store is another teacher's.
    """
    if (teacher.fingerprint, teacher.dim, teacher.frame_rate) != (store.fingerprint, store.dim, store.frame_rate):
        raise StoreError(
            f"{store.path} holds features of {store.name}, not of {teacher.name} as it is: use FeatureStore.of"
        )
    paths = [os.fspath(path) for path in paths]
    if not store.ready:  # the quantizer is fitted to the first rows, which should be of all kinds
        paths.sort(key=lambda path: hashlib.sha256(os.fsencode(path)).digest())
    report = Report()
    try:
        for number, path in enumerate(paths, 1):
            try:
                wav = decode(path, teacher.sample_rate)  # (T,) int16
                key = content_key(wav)
                if key in store:
                    report.present += 1
                else:
                    store.add(key, *features(wav, key))
                    report.added += 1
                    report.seconds += len(wav) / teacher.sample_rate
            except (DataError, StoreError) as error:
                report.skipped.append((path, str(error)))
            if progress is not None:
                progress(number, len(paths))
    except BaseException:
        if store.ready:
            store.flush()
        raise
    store.flush()
    return report
