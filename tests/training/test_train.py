"""`codec train` from a recipe to a model that loads, and resuming as if never stopped."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import yaml

import codec
from codec.cli import main
from codec.config import ConfigError
from codec.training import recipe as recipes
from codec.training.run import train
import tiny_recipe as tiny
import tiny_teachers


def run(values: dict, **schedule) -> dict:
    """Train and return the checkpoint."""
    values = {**values, "schedule": {**values["schedule"], **schedule}}
    directory = train(recipes.from_dict(values), progress=False)
    return torch.load(directory / "last.ckpt", weights_only=True)


def assert_same(one, other, where="checkpoint") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other)):
            assert_same(a, b, f"{where}[{index}]")
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("stop", [2, 5])
@pytest.mark.parametrize("balance", ["reference", "encodec"])
def test_resumed_equals_uninterrupted_bitwise(data, tmp_path, stop, balance):
    """Both networks, both optimisers, averaged weights, codebook and balancer statistics: before and after the adversary joins."""
    values = tiny.recipe(data, tmp_path / "whole")
    values["loss"]["balance"] = balance
    whole = run(values)
    stopped = tiny.recipe(data, tmp_path / "stopped")
    stopped["loss"]["balance"] = balance
    stopped["run"]["checkpoint_every"] = stop
    # The schedule is that of the whole run: stop it in the middle as a kill would, right after a checkpoint.
    half = recipes.from_dict(stopped)
    with pytest.MonkeyPatch.context() as patch:
        from codec.training.callbacks import Checkpoints

        save = Checkpoints.save

        def save_and_die(self, trainer, module):
            save(self, trainer, module)
            raise RuntimeError("killed")

        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(RuntimeError, match="killed"):
            train(half, progress=False)
    assert torch.load(tmp_path / "stopped/tiny/last.ckpt", weights_only=True)["state_dict"]["steps_done"] == stop
    resumed = run(stopped)
    for part in ("state_dict", "optimizer_states", "ema", "balancer"):
        assert_same(whole[part], resumed[part], part)
    assert resumed["state_dict"]["steps_done"] == 8


def test_models_of_steps_are_kept_for_a_sweep(data, tmp_path):
    from codec.evaluation.systems.ours import checkpoints

    values = tiny.recipe(data, tmp_path)
    values["run"]["keep_every"] = 3
    run(values, steps=8)
    found = checkpoints(tmp_path / "tiny", ())
    assert [name for name in found if name[5:].isdigit()] == ["tiny/0000003", "tiny/0000006"]
    kept = {name: codec.load(folder).spec.fingerprint for name, folder in found.items()}
    assert kept["tiny/0000003"] != kept["tiny/0000006"] != kept["tiny/last"]
    with pytest.raises(ConfigError, match="keep_every=-1"):
        recipes.from_dict({**values, "run": {**values["run"], "keep_every": -1}})


@pytest.mark.slow
def test_a_sweep_shows_quality_against_steps(data, tmp_path):
    values = tiny.recipe(data, tmp_path)
    values["run"] |= {"keep_every": 2, "sweep": str(data), "sweep_limit": 2}
    run(values, steps=5)
    report = json.loads((tmp_path / "tiny" / "sweep" / "report.json").read_text())
    assert {(cell["run"], cell["step"], cell["setting"]) for cell in report["cells"]} == {
        ("tiny", step, f"k={k}") for step in (2, 4) for k in (1, 2, 3)
    }
    assert all(cell["files"] == 2 and "mel" in cell["metrics"] for cell in report["cells"])
    page = (tmp_path / "tiny" / "sweep" / "report.html").read_text()
    assert "Quality against steps of training" in page and 'aria-label="Mel distance against steps"' in page
    with pytest.raises(ConfigError, match="run.sweep compares the models of steps: say how often"):
        recipes.from_dict({**values, "run": {**values["run"], "keep_every": 0}})
    with pytest.raises(ConfigError, match="run.sweep=nowhere: no such file"):
        train(recipes.from_dict({**values, "run": {**values["run"], "sweep": "nowhere"}}), progress=False)


def test_a_sweep_that_fails_is_told_and_training_goes_on(data, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    values = tiny.recipe(data, tmp_path)
    values["run"] |= {"keep_every": 4, "sweep": str(tmp_path / "empty")}
    assert run(values, steps=5)["state_dict"]["steps_done"] == 5
    assert "the sweep failed (exit code 1)" in capfd.readouterr().out
    assert "holds no audio files" in (tmp_path / "tiny" / "sweep.log").read_text()


def test_a_finished_run_goes_on(data, tmp_path):
    """Ended by its steps, ended by its time: raising the limit continues, and the result is that of one run."""
    parts = tiny.recipe(data, tmp_path / "parts")
    parts["schedule"]["decay"] = 0.0  # which follows the number of steps
    assert run(parts, steps=3)["state_dict"]["steps_done"] == 3
    timed = {**parts, "run": {**parts["run"], "max_minutes": 1e-9}}
    assert run(timed)["state_dict"]["steps_done"] == 4
    whole = tiny.recipe(data, tmp_path / "whole")
    whole["schedule"]["decay"] = 0.0
    whole, parts = run(whole), run(parts)
    for part in ("state_dict", "optimizer_states", "ema"):
        assert_same(whole[part], parts[part], part)


def test_ctrl_c_ends_after_the_step(data, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny.recipe(data, tmp_path)))
    program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from codec.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "train", str(path), "schedule.steps=100000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_steps(tmp_path / "tiny/logs/version_0/metrics.csv")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    state = torch.load(tmp_path / "tiny/last.ckpt", weights_only=True)
    step = int(state["state_dict"]["steps_done"])
    generator, discriminator = state["optimizer_states"]
    assert {int(s["step"]) for s in generator["state"].values()} == {step}
    assert {int(s["step"]) for s in discriminator["state"].values()} == {len(range(4, step, 2))}


def test_a_batch_of_nan_spoils_nothing(data, tmp_path):
    """A gradient that is not finite is dropped; latents that are not finite end the run before the codebooks see them."""
    from codec.training.module import CodecTraining

    module = CodecTraining(recipes.from_dict(tiny.recipe(data, tmp_path)))
    optimizer = torch.optim.AdamW(module.model.parameters())
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    for parameter in module.model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    module._clipped_step(list(module.model.parameters()), optimizer)
    assert_same(before, dict(module.model.state_dict()))
    with pytest.raises(ValueError, match="lower the learning rate"):
        module.model(torch.full((2, 1, 1600), float("nan")))
    assert_same(before, dict(module.model.state_dict()))


def start_training(data, folder, *settings: str, **environment: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny.recipe(data, folder)))
    return subprocess.Popen(
        [sys.executable, "-m", "codec", "train", str(path), "schedule.steps=6", *settings], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def two_processes(data, tmp_path_factory):
    """The folder of a run of two processes that one command starts, and what it printed."""
    folder = tmp_path_factory.mktemp("two")
    process = start_training(data, folder, "run.devices=2")
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    return folder / "tiny", out


def test_two_processes_train_together(two_processes):
    folder, out = two_processes
    assert out.count("model/ is the newest model") == 1
    assert codec.load(folder / "model").num_codebooks == 3
    generator, discriminator = torch.load(folder / "last.ckpt", weights_only=True)["optimizer_states"]
    assert {int(s["step"]) for s in generator["state"].values()} == {6}
    assert {int(s["step"]) for s in discriminator["state"].values()} == {1}


@pytest.mark.slow
def test_two_machines_train_as_two_processes_of_one_do(data, two_processes, tmp_path):
    """As docs/scale.md has it: the same command on each, told which one it is; here both are this one."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    nodes = [
        start_training(data, tmp_path, "run.nodes=2", NODE_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        for rank in ("0", "1")
    ]
    for node in nodes:
        _, errors = node.communicate(timeout=300)
        assert node.returncode == 0, errors[-2000:]
    one, other = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (tmp_path / "tiny", two_processes[0]))
    assert_same(one["state_dict"], other["state_dict"])


def test_one_step_is_one_update_of_the_generator(data, tmp_path):
    state = run(tiny.recipe(data, tmp_path))
    generator, discriminator = state["optimizer_states"]
    assert {int(s["step"]) for s in generator["state"].values()} == {8}
    assert {int(s["step"]) for s in discriminator["state"].values()} == {2}  # steps 4 and 6: from 3 on, every second


def test_training_learns_and_yields_a_loadable_model(data, tmp_path):
    values = tiny.recipe(data, tmp_path)
    values["data"]["valid"] = str(data)
    values["schedule"] |= {"learning_rate": 5e-3, "ema": 0.5}
    values["adversary"]["discriminators"] = []
    values["run"]["valid_every"] = 30
    run(values, steps=60)
    directory = tmp_path / "tiny"
    losses = [float(row["reconstruction"]) for row in rows(directory / "logs/version_0/metrics.csv") if row.get("reconstruction")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    validation = rows(directory / "validation.csv")
    assert [(int(r["step"]), int(r["codebooks"])) for r in validation] == [(30, 1), (30, 2), (30, 3), (60, 1), (60, 2), (60, 3)]
    for name in ("model", "best"):
        model = codec.load(directory / name)
        tokens = model.encode(torch.zeros(1000))
        assert tokens.codes.shape == (1, 3, 7) and model.decode(tokens).shape == (1, 1, 1000)
    assert (directory / "audio/0_3.wav").stat().st_size > 1000
    assert {"usage_1", "entropy_3", "relative_error_2", "commitment"} <= rows(directory / "logs/version_0/metrics.csv")[0].keys()


def test_each_listed_dependency_is_used_by_training(data, tmp_path):
    """In a fresh interpreter, `codec train` imports lightning, auraloss and vector_quantize_pytorch."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny.recipe(data, tmp_path)))
    program = (
        "import sys; from codec.cli import main; code = main(['train', sys.argv[1], 'schedule.steps=4']);"
        "print(code, *(name in sys.modules for name in ('lightning', 'auraloss', 'vector_quantize_pytorch')))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "0 True True True", done.stderr[-2000:]


def test_checkpoints_with_filters_of_losses_go_on(data, tmp_path):
    """Earlier versions kept the mel filters, which are made anew."""
    entry = tiny.recipe(data, tmp_path)
    entry["schedule"]["steps"] = 2
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(entry))
    assert main(["train", str(path)]) == 0
    last = tmp_path / "tiny/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["state_dict"]["spectral.terms.mel.auraloss.0.fb"] = torch.zeros(1, 5, 9)
    torch.save(checkpoint, last)
    assert main(["train", str(path), "schedule.steps=3"]) == 0
    assert torch.load(last, weights_only=True)["state_dict"]["steps_done"] == 3


def test_sigterm_saves_and_the_same_command_goes_on(data, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny.recipe(data, tmp_path)))
    command = [sys.executable, "-m", "codec", "train", str(path)]
    process = subprocess.Popen([*command, "schedule.steps=100000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_steps(tmp_path / "tiny/logs/version_0/metrics.csv")
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    step = int(torch.load(tmp_path / "tiny/last.ckpt", weights_only=True)["state_dict"]["steps_done"])
    assert step > 2
    subprocess.run([*command, f"schedule.steps={step + 2}"], check=True, capture_output=True, timeout=120)
    assert int(torch.load(tmp_path / "tiny/last.ckpt", weights_only=True)["state_dict"]["steps_done"]) == step + 2


def test_init_starts_from_a_trained_model(data, tmp_path):
    run(tiny.recipe(data, tmp_path / "a"), steps=4)
    from codec.training.module import CodecTraining

    state = torch.load(tmp_path / "a/tiny/last.ckpt", weights_only=True)
    values = tiny.recipe(data, tmp_path / "b")
    module = CodecTraining(recipes.from_dict(values))
    module.load_state_dict(state["state_dict"])
    module.model.config = dataclasses.replace(module.model.config, level=-30.0, spectrum=(-33.0, -33.0))  # which recipes do not know
    codec.save(module.model, tmp_path / "trained")
    values["init"] = str(tmp_path / "trained")
    tuned = CodecTraining(recipes.from_dict(values))
    trained = codec.load(tmp_path / "trained")
    assert tuned.model.quantizer.initialized and tuned.model.normal == trained.normal and trained.normal.spectrum == (-33.0, -33.0)
    for name, value in trained.encoder.state_dict().items():
        assert torch.equal(tuned.model.encoder.state_dict()[name], value)
    run(values, steps=2)
    moved = torch.load(tmp_path / "b/tiny/last.ckpt", weights_only=True)["state_dict"]["model.quantizer.codebooks"]
    assert 0 < (moved - trained.quantizer.codebooks).abs().mean() < 0.2 * trained.quantizer.codebooks.abs().mean()


def test_decoder_only_keeps_encoder_and_codebooks_so_that_old_tokens_decode(data, tmp_path):
    run(tiny.recipe(data, tmp_path / "a"), steps=4)
    old = codec.load(tmp_path / "a/tiny/model")
    values = tiny.recipe(data, tmp_path / "b")
    values["init"], values["adversary"]["start"] = str(tmp_path / "a/tiny/model"), 2
    run(values, steps=4, decoder_only=True)
    new = codec.load(tmp_path / "b/tiny/model")
    tokens = old.encode(torch.randn(1, 1, 3200, generator=torch.manual_seed(0)) * 0.1)
    assert torch.equal(new.encode(old.decode(tokens)).codes, old.encode(old.decode(tokens)).codes)
    assert not torch.equal(new.decode(tokens), old.decode(tokens))
    for name, value in old.state_dict().items():
        same = torch.equal(new.state_dict()[name], value)
        assert same or name.startswith("decoder."), name
    with pytest.raises(ConfigError, match="decoder_only"):
        run(values, steps=6)


def test_init_of_another_shape_is_refused(data, tmp_path):
    values = tiny.recipe(data, tmp_path)
    run(values, steps=3)
    from codec.training.module import CodecTraining

    module = CodecTraining(recipes.from_dict(values))
    codec.save(module.model, tmp_path / "other")
    values["init"], values["model"]["dim"] = str(tmp_path / "other"), 12
    with pytest.raises(ConfigError, match="init"):
        CodecTraining(recipes.from_dict(values))


def test_another_model_does_not_resume(data, tmp_path):
    values = tiny.recipe(data, tmp_path)
    run(values, steps=2)
    values["model"]["dim"] = 12
    with pytest.raises(ConfigError, match="another model:"):
        train(recipes.from_dict(values), progress=False)


def test_init_does_not_resume_a_run_without_it(data, tmp_path):
    values = tiny.recipe(data, tmp_path)
    run(values, steps=2)
    with pytest.raises(ConfigError, match="another init:"):
        train(recipes.from_dict({**values, "init": "elsewhere"}), progress=False)


@pytest.mark.parametrize(("override", "message"), [
    ("data.batch=3", "no setting batch"),
    ("data.batch_size=many", "must be int"),
    ("data.batch_size=0", "at least 1"),
    ("nothing", "key=value"),
    ("model.encoder.name=os.system", "no encoder is named"),
    ("schedule.dropout_weights=[0, 0]", "not all 0"),
    ("loss.balance=fair", "reference or encodec"),
    ("schedule.decoder_only=true", "name it by init="),
    ("run.precision=fp4", "bf16-mixed"),
    ("data.crop_seconds=0.001", "shorter than one frame"),
    ("loss.spectral=[]", "at least one"),
    ("loss.spectral=[5]", "list of mappings"),
    ("adversary.kind=wgan", "hinge or least_squares"),
    ("adversary.discriminators=[{name: mpd, options: 3}]", "list of mappings"),
    ("run.devices=0", "at least 1"),
    ("data.valid_items=0", "at least 1"),
    ("data.batch_size=1.5", "must be int"),
    ("model.name=../../etc", "name"),
])
def test_bad_settings_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        recipes.load("speech_16k", [override])


def test_numbers_with_exponents_are_numbers():
    recipe = recipes.load("speech_16k", ["schedule.learning_rate=1e-4", "schedule.steps=1e5", "data.gain_db=[-6, 0]"])
    assert recipe.schedule.learning_rate == 1e-4 and recipe.schedule.steps == 100_000 and recipe.data.gain_db == (-6.0, 0.0)


def test_a_crop_too_short_for_the_discriminators_is_said_at_the_start(data, tmp_path):
    from codec.training.module import CodecTraining

    values = tiny.recipe(data, tmp_path)
    values["adversary"]["crop_seconds"] = 0.001
    with pytest.raises(ConfigError, match="adversary.crop_seconds"):
        CodecTraining(recipes.from_dict(values))


def test_a_crop_too_short_for_a_loss_is_said_at_the_start(data, tmp_path):
    from codec.training.module import CodecTraining

    values = tiny.recipe(data, tmp_path)
    values["loss"]["spectral"] = [{"name": "mel"}, {"name": "speaker"}]
    values["data"]["crop_seconds"] = 0.32
    CodecTraining(recipes.from_dict(values))
    values["data"]["crop_seconds"] = 0.28
    with pytest.raises(ConfigError, match="data.crop_seconds=0.28 is too short for the loss 'speaker': it needs 4800 samples"):
        CodecTraining(recipes.from_dict(values))


def test_a_frozen_whisper_judges_and_stays_out_of_checkpoints(data, tmp_path):
    teacher = tiny_teachers.save(tmp_path / "teacher", "whisper")
    values = tiny.recipe(data, tmp_path / "a")
    whisper = {"name": "whisper", "options": {"teacher": str(teacher), "layers": [1], "channels": 8}}
    values["adversary"] |= {"discriminators": [whisper, {"name": "logmel", "options": {"channels": 8}}], "start": 1, "every": 1}
    whole = run(values, steps=4)
    judges = [name for name in whole["state_dict"] if name.startswith("discriminator.")]
    assert judges and all(".judges." in name for name in judges)
    values["run"]["out"] = str(tmp_path / "b")
    run(values, steps=2)
    assert_same(whole["state_dict"], run(values, steps=4)["state_dict"])  # gone on with, Whisper is found again

    values["run"]["out"] = str(tmp_path / "c")
    values["adversary"]["discriminators"][0]["options"]["teacher"] = "nobody/nothing-at-all/here"
    with pytest.raises(ConfigError, match="^adversary.discriminators: there is no folder nobody/nothing-at-all/here"):
        run(values, steps=4)


def test_whisper_without_its_package_or_with_long_excerpts_is_said_at_the_start(data, tmp_path, monkeypatch):
    from codec.training.module import CodecTraining

    values = tiny.recipe(data, tmp_path)
    options = {"teacher": str(tiny_teachers.save(tmp_path / "teacher", "whisper")), "layers": [1], "channels": 8}
    values["adversary"] |= {"discriminators": [{"name": "whisper", "options": options}], "crop_seconds": 2.5}
    values["data"]["crop_seconds"] = 2.5  # it hears 2 s
    with pytest.raises(ConfigError, match="adversary.crop_seconds=2.5 is too long for these discriminators: they take 32000 samples"):
        CodecTraining(recipes.from_dict(values))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    options["teacher"] = "openai/whisper-base"
    with pytest.raises(ConfigError, match=r'pip install "neural-codec-toolkit\[teachers\]"'):
        CodecTraining(recipes.from_dict(values))


@pytest.mark.parametrize("normalize", [True, False])
def test_quiet_recordings_are_judged_at_the_level_of_the_others(data, tmp_path, monkeypatch, normalize):
    from codec.training.spectra import LEVEL
    from discriminators.base import DiscriminatorSet

    heard, judge = [], DiscriminatorSet.judge

    def listen(self, wav):
        heard.append(wav.detach())
        return judge(self, wav)

    monkeypatch.setattr(DiscriminatorSet, "judge", listen)
    values = tiny.recipe(data, tmp_path)
    values["data"]["gain_db"] = [-30.0, -30.0]
    values["adversary"] |= {"normalize": normalize, "start": 0, "every": 1}
    run(values, steps=1)
    real, fake, again, last = heard  # to learn from both, then to judge the codec
    assert torch.equal(fake, again) and torch.equal(real, last)
    levels = real.square().mean((1, 2)).sqrt()
    if normalize:
        torch.testing.assert_close(levels, torch.full_like(levels, LEVEL))
    else:
        assert (levels < LEVEL / 2).all()


def test_command_line_errors_are_one_line(capsys, tmp_path):
    for arguments in (["speech_16k"], ["nothing_16k"], ["speech_16k", f"data.train={tmp_path}", f"run.out={tmp_path}"]):
        assert main(["train", *arguments]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("codec: ")


def wait_for_steps(log) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") > 6):
        time.sleep(0.1)


def rows(path) -> list[dict]:
    with path.open() as file:
        return list(csv.DictReader(file))
