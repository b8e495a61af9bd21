"""Probes find what is in the codes, and do not find what is not."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import soundfile
import torch
from synthetic_codes import SIZE, view

from codec.evaluation.probe import probe
from codec.evaluation.probe_classify import Slots, Speaker
from codec.evaluation.probe_data import Recording, recordings
from codec.evaluation.probe_heads import classify_bags, start_tables
from codec.evaluation.probe_report import Missing, ProbeError, Report, bootstrap
from codec.evaluation.probe_tokens import Tokens, code_vectors, codebook_sets
from quantizers import build


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def commands(count: int = 70) -> tuple[list[Recording], dict[str, torch.Tensor]]:
    """Codebook 1 says the drink by the order of two codes, held for four frames each, somewhere in noise, codebook 2 says nothing. Both orders have
    the same bag of codes."""
    generator = torch.Generator().manual_seed(0)
    found, codes = [], {}
    for number in range(count):
        code = torch.randint(4, SIZE, (2, 40 + number % 7), generator=generator)
        tea = number % 2 == 0
        at = int(torch.randint(0, 32, (1,), generator=generator))
        code[0, at : at + 8] = torch.tensor([1] * 4 + [2] * 4 if tea else [2] * 4 + [1] * 4)
        key = digest(number)
        codes[key] = code
        found.append(Recording(key, key, slots={"drink": "tea" if tea else "coffee"}))
    return found, codes


def test_slots_are_found_where_they_are_and_only_there():
    found, codes = commands()
    task = Slots(found)
    mean, drink, bag, _ = list(task.measure(view(codes, 1, only_steps=60)))
    assert (mean.part, drink.part, mean.head, bag.head, mean.count) == ("mean", "drink", "network", "bag of codes", 70)
    assert mean.value > 0.85 and mean.low > mean.chance and mean.beyond_chance
    assert bag.low <= 0.5 <= bag.high  # order is not in a bag
    for row in task.measure(view(codes, 2, only_steps=20)):
        assert not row.beyond_chance and abs(row.value - 0.5) < 0.15 and row.low > 0.2 and row.high < 0.8
        assert row.chance == 0.5


def test_a_bag_of_codes_finds_what_occurs():
    rows = [torch.randint(0, 16, (1, 40), generator=torch.Generator().manual_seed(n)) + 16 * (n % 2) for n in range(40)]
    answers = np.array([[n % 2] for n in range(40)])
    assert (classify_bags([32], rows[:20], answers[:20], rows[20:], [2], 0) == answers[20:]).all()


def test_slots_that_are_absent_or_rare():
    found, _ = commands()
    for number, recording in enumerate(found):
        if number < 30:
            recording.slots["size"] = "large"
        elif number < 35:
            recording.slots["size"] = "rare"
        recording.slots["always"] = "please"
    task = Slots(found)
    assert task.slots == {"drink": ["coffee", "tea"], "size": ["", "large"]}  # one value alone asks nothing
    assert (task.answers[:, 1] == -1).sum() == 5


def test_slots_that_cannot_be():
    found, _ = commands(20)
    with pytest.raises(Missing, match="labels.json"):
        Slots([Recording("a", digest(0))])
    with pytest.raises(ProbeError, match="20 labelled recordings are too few, 50 are needed: add some"):
        Slots(found)
    same = [Recording("a", digest(n), "one speaker", {"drink": "tea"}) for n in range(60)]
    with pytest.raises(ProbeError, match="too few speakers"):
        Slots(same)


def voices(per_speaker: int) -> tuple[list[Recording], dict[str, torch.Tensor]]:
    """8 speakers, each of whom prefers one code of codebook 1; codebook 2 is noise."""
    generator = torch.Generator().manual_seed(0)
    found, codes = [], {}
    for number in range(8 * per_speaker):
        code = torch.randint(0, SIZE, (2, 400), generator=generator)
        code[0, torch.rand(400, generator=generator) < 0.35] = number % 8
        codes[digest(number)] = code
        found.append(Recording("", digest(number), f"speaker {number % 8}"))
    return sorted(found, key=lambda recording: recording.digest), codes


@pytest.mark.parametrize("per_speaker", [1, 5])
def test_speakers_are_found_where_they_are_and_only_there(per_speaker):
    found, codes = voices(per_speaker)
    task = Speaker(found)
    assert task.by_recording == (per_speaker == 5)
    for row in task.measure(view(codes, 1, only_steps=50)):
        assert row.value > 0.7 and row.beyond_chance, row
        assert row.chance == pytest.approx(1 / 8)
        assert row.note == ("other recordings of the speakers" if per_speaker == 5 else "later parts of the same recordings")
        assert row.count == 8 * (4 if per_speaker == 5 else 1)  # pieces of 2 s
    for row in task.measure(view(codes, 2, only_steps=50)):
        assert not row.beyond_chance, row


def test_speakers_that_cannot_be():
    with pytest.raises(Missing, match="no speakers"):
        Speaker([Recording("a", digest(0))])
    with pytest.raises(ProbeError, match="4 speakers are too few, 5 are needed"):
        Speaker([Recording("a", digest(n), str(n)) for n in range(4)])
    found, codes = voices(1)
    with pytest.raises(ProbeError, match="6.5 s or more"):
        list(Speaker(found).measure(view({key: code[:, :200] for key, code in codes.items()}, 1)))


def test_the_same_seed_gives_the_same_figures():
    found, codes = commands()
    chosen = view(codes, 1, only_steps=3)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = list(Slots(found).measure(chosen))
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's random numbers are left alone
    torch.manual_seed(2)
    assert list(Slots(found).measure(view(codes, 1, only_steps=3))) == first
    assert list(Slots(found).measure(view(codes, 1, only_steps=3, seed=5))) != first


def test_parts_follow_from_content_and_speaker_alone():
    folds = [Recording(f"{n}.wav", digest(n)).fold(5) for n in range(100)]
    assert folds == [Recording(f"renamed/{n}.wav", digest(n)).fold(5) for n in range(100)] and len(set(folds)) == 5
    assert len({Recording("", digest(n), "one").fold(5) for n in range(100)}) == 1


def test_intervals():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(50):
        hits = rng.random(200) < 0.3
        estimate = bootstrap(hits, np.ones(200), seed)
        assert estimate.value == pytest.approx(hits.mean())
        covered += estimate.low <= 0.3 <= estimate.high
    assert 43 <= covered <= 50
    assert bootstrap(np.array([3, 0]), np.array([4, 0])).value == 0.75  # sums, not means of means
    two = bootstrap(np.array([[1, 0], [1, 0]]), np.array([[1, 2], [1, 2]]))
    assert (two.value, two.low, two.high) == (0.5, 0.5, 0.5)


def test_codebook_sets():
    assert [str(each) for each in codebook_sets("1, 3,1-4,1-1,all", 8)] == ["1", "3", "1-4", "1-8"]
    assert [str(each) for each in codebook_sets("each,prefixes", 2)] == ["1", "2", "1-2"]
    for text, words in [("0", "1 to 8"), ("1-9", "1 to 8"), ("3-2", "1 to 8"), ("one", "name them as"), ("", "no codebooks")]:
        with pytest.raises(ProbeError, match=words):
            codebook_sets(text, 8)


@pytest.mark.parametrize("options", [
    {"name": "rvq", "num_codebooks": 3, "codebook_size": 8}, {"name": "product", "num_codebooks": 2, "codebook_size": 8},
    {"name": "split_rvq", "num_codebooks": 3, "codebook_size": 8}, {"name": "multiscale_rvq", "num_codebooks": 3, "codebook_size": 8},
])
def test_vectors_of_codes_add_up_to_the_decoded_latents(options):
    torch.manual_seed(0)
    name = options.pop("name")
    quantizer = build(name, 12, **options)
    for value in quantizer.state_dict().values():
        if value.is_floating_point():
            value.normal_()
    sizes, together = quantizer.codebook_sizes, quantizer.frame_multiple
    codes = torch.stack([torch.randint(0, size, (50,)) for size in sizes], 1)[..., None].expand(-1, -1, together)
    decoded = quantizer.decode(codes.contiguous()).mean(2)
    summed = sum(code_vectors(quantizer, k + 1)[codes[:, k, 0]] for k in range(len(sizes)))
    offset = decoded - summed
    assert torch.allclose(offset, offset[:1].expand_as(offset), atol=1e-4)
    tables = start_tables([code_vectors(quantizer, k + 1) for k in range(len(sizes))], sizes, 0)
    assert sum(float(table.square().mean()) for table in tables) == pytest.approx(1, rel=1e-4)


@pytest.fixture
def corpus(tmp_path):
    """60 recordings of a high or a low tone, which labels.json tells apart, and 6 of speakers."""
    folder = tmp_path / "speech"
    (folder / "commands").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, labels = [], {}
    for number in range(60):
        high = number % 2
        tone = 0.3 * np.sin(2 * np.pi * (2000 if high else 200) * np.arange(4000) / 16_000) + 0.01 * rng.standard_normal(4000)
        soundfile.write(folder / "commands" / f"{number}.wav", tone, 16_000)
        rows.append({"path": f"commands/{number}.wav", "split": "train"})
        labels[str(number)] = {"intent": "tone", "slots": {"tone": " high" if high else "low"}}
    (folder / "commands" / "labels.json").write_text(json.dumps(labels))
    for number in range(6):
        soundfile.write(folder / f"{number}.flac", 0.1 * rng.standard_normal(16_000 * 7), 16_000)
        rows.append({"path": f"{number}.flac", "split": "train", "speaker": str(number)})
    rows.append({"path": "missing.wav", "split": "eval"})
    (folder / "manifest.json").write_text(json.dumps(rows))
    return folder


def test_data(corpus):
    found = recordings(corpus)
    assert len(found) == 66 and found == sorted(found, key=lambda recording: recording.digest)
    assert sum(recording.speaker == "3" for recording in found) == 1
    assert {recording.slots["tone"] for recording in found if recording.slots} == {"high", "low"}
    (corpus / "commands" / "labels.json").write_text("[1]")
    with pytest.raises(ProbeError, match="cannot be read as labels: it must be an object"):
        recordings(corpus)
    with pytest.raises(ProbeError, match="no training data"):
        recordings(corpus / "nowhere")
    with pytest.raises(ProbeError, match="missing.wav cannot be read"):
        recordings(corpus, "eval")


def test_speakers_of_librispeech_names(tmp_path):
    soundfile.write(tmp_path / "84-121123-0001.wav", np.zeros(100), 16_000)
    soundfile.write(tmp_path / "other.wav", np.ones(100), 16_000)
    assert sorted(recording.speaker for recording in recordings(tmp_path)) == ["", "84"]


def test_codes_are_kept(corpus, tiny_model, tmp_path, monkeypatch):
    recording = recordings(corpus)[0]
    tokens = Tokens(tiny_model, tmp_path / "cache")
    codes = tokens.codes(recording)
    wav, _ = soundfile.read(recording.path, dtype="float32")
    assert np.array_equal(codes, tiny_model.encode(torch.from_numpy(wav)).codes[0])
    monkeypatch.setattr(type(tiny_model), "encode", None)
    assert np.array_equal(Tokens(tiny_model, tmp_path / "cache").codes(recording), codes)
    next((tmp_path / "cache").rglob("*.npy")).write_bytes(b"torn")
    with pytest.raises(TypeError):
        Tokens(tiny_model, tmp_path / "cache").codes(recording)


def test_a_report_of_real_codes(corpus, model_folder, tmp_path):
    report = probe([model_folder], corpus, codebooks="1,1-2", steps=12, cache=tmp_path / "cache")
    mean = next(row for row in report.rows if row.task == "slots" and row.part == "mean" and row.codebooks == "1-2")
    assert mean.value > 0.9 and mean.beyond_chance
    assert [row.codebooks for row in report.rows if row.task == "speaker"] == ["1", "1", "1-2", "1-2"]
    report.save(tmp_path / "probe.json")
    read = Report.load(tmp_path / "probe.json")
    assert [row.part for row in read.rows] == [row.part for row in report.rows] and read.settings == report.settings
    assert f"| {len(mean.model) and mean.model} | slots | 1-2 | network | accuracy | " in read.markdown()
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ProbeError, match="holds no results"):
        Report.load(tmp_path / "other.json")


@pytest.fixture
def model_folder(tiny_model, tmp_path):
    from codec import hub

    hub.save(tiny_model, tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.mark.parametrize("settings, words", [
    ({"tasks": ["slots", "weather"]}, "no task 'weather': there are slots, speaker, characters, words, dwer"), ({"tasks": []}, "there are slots"),
    ({"start": "zero"}, "vectors and learnt"), ({"steps": 1}, "at least 2"), ({"codebooks": "9"}, "1 to 4"),
])
def test_wrong_settings(settings, words, corpus, model_folder, tmp_path):
    with pytest.raises(ProbeError, match=words):
        probe([model_folder], corpus, cache=tmp_path / "cache", **settings)


def test_what_is_missing_is_skipped_with_the_reason(corpus, model_folder, tmp_path):
    (corpus / "commands" / "labels.json").unlink()
    report = probe([model_folder], corpus, codebooks="1", steps=2, cache=tmp_path / "cache")
    assert {row.task for row in report.rows} == {"speaker"}
    assert report.skipped == [{"model": "", "task": "slots", "codebooks": "", "reason": "no labels.json with slots lies beside the recordings"}]
