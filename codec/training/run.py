"""Run a recipe: data, module, Trainer; goes on from the last checkpoint of the same folder when there is one."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch

from codec.config import ConfigError
from codec.training.recipe import Recipe


def train(recipe: Recipe, progress: bool = True) -> Path:
    """Train until `schedule.steps` or `run.max_minutes`; returns the folder of the run, `run.out`/`model.name`.

    The folder gets last.ckpt (to resume), model/ and best/ (loadable models with averaged weights), checkpoints/, validation.csv,
    audio/, and the losses as CSV and, where tensorboard is installed, as its event files. The same call again goes on
    where the last one stopped. Raises ConfigError for a recipe that cannot run.
    """
    try:
        import lightning
    except ImportError as error:
        raise ConfigError(f'training needs more packages ({error}): pip install "neural-codec-toolkit[train]"') from None
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from codec.training.callbacks import LAST, Checkpoints, Deadline, Interrupt, Validation
    from codec.training.data import SpeechCrops
    from codec.training.module import CodecTraining
    from codec.training.sweeps import Sweeps
    from codec.training.targets import TargetedCrops

    if not recipe.data.train:
        raise ConfigError("no training data: add data.train=FOLDER (or a manifest) to the command")
    run = recipe.run
    if run.threads:
        torch.set_num_threads(run.threads)
    directory = Path(run.out) / recipe.model.name
    directory.mkdir(parents=True, exist_ok=True)
    _keep_settings(recipe, directory)
    crops = SpeechCrops(
        recipe.data.train, recipe.model.output_rate, _crop_samples(recipe), recipe.data.batch_size, seed=run.seed,
        cache=recipe.data.cache, group_power=recipe.data.group_power, gain_db=recipe.data.gain_db, effects=recipe.data.effects,
        frame_samples=recipe.model.output_frame_size if recipe.semantic.targets else 1,
    )
    stores = _stores(recipe)
    if stores:
        shifts = [target.shift for target in recipe.semantic.entries()]
        crops = TargetedCrops(crops, stores, shifts, recipe.model.sample_rate / recipe.model.frame_size)
    module = CodecTraining(recipe, crops.batch, [store.dim for store in stores])
    callbacks = [Checkpoints(directory, run.checkpoint_every, run.keep_every), Interrupt()]
    if recipe.data.valid:
        callbacks.insert(0, Validation(directory, run.valid_every, _validation_items(recipe)))
    if run.sweep:
        if not Path(run.sweep).exists():
            raise ConfigError(f"run.sweep={run.sweep}: no such file or folder of recordings")
        callbacks.append(Sweeps(directory, run.keep_every, run.sweep, run.sweep_limit))
    if run.max_minutes:
        callbacks.append(Deadline(run.max_minutes))
    try:
        trainer = lightning.Trainer(
            accelerator=run.accelerator, devices=run.devices, num_nodes=run.nodes, max_epochs=1,
            strategy="ddp_find_unused_parameters_true" if run.devices * run.nodes > 1 else "auto",
            precision=_precision(run.precision), logger=_loggers(directory, run.log_every), callbacks=callbacks,
            enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=progress,
            log_every_n_steps=run.log_every, use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(f"run.accelerator={run.accelerator}, run.devices={run.devices}: {error}") from None
    data = _step_data(recipe, crops, module)
    last = directory / LAST
    with warnings.catch_warnings():
        for told_twice in (".*does not have many workers.*", ".*your dataloader is not resumable.*"):  # its position is the step
            warnings.filterwarnings("ignore", message=told_twice)
        trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
    return directory


def _stores(recipe: Recipe) -> list:
    """The features of each semantic target, or the letters of its transcripts."""
    from codec.semantic.features import FeatureStore
    from codec.semantic.letters import Letters
    from codec.semantic.transcripts import TranscriptError

    targets, folder = recipe.semantic.entries(), recipe.semantic.features
    teachers = sorted({target.teacher for target in targets if target.teacher})
    if teachers and not folder:
        raise ConfigError(f"this recipe distils {', '.join(teachers)}: add semantic.features=FOLDER, which codec features "
                          "makes, or train without by semantic.targets=[]")
    stores = []
    for number, target in enumerate(targets, 1):
        try:
            if target.transcripts:
                stores.append(Letters(target.transcripts, recipe.model.sample_rate / recipe.model.frame_size))
            else:
                stores.append(FeatureStore.open(folder, target.teacher))
        except TranscriptError as error:
            raise ConfigError(f"semantic.targets.{number}.transcripts: {error}") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"semantic.features: {error}; a store of another name is taken by "
                              f"semantic.targets.{number}.teacher=NAME") from None
    return stores


def _step_data(recipe: Recipe, crops, module):
    """A data module whose loader starts at the step where the module is: a resumed run sees what it would have seen."""
    import lightning

    from codec.training.data import step_loader

    class StepData(lightning.LightningDataModule):
        def train_dataloader(self):
            return step_loader(
                crops, module.step, recipe.schedule.steps, module.global_rank, recipe.data.workers,
                pin_memory=torch.cuda.is_available(),
            )

    return StepData()


def _validation_items(recipe: Recipe) -> list:
    """The first `valid_items` files spread over the validation set, as arrays (T,) of at most 10 s."""
    import numpy as np

    from codec.training.data import decode, list_audio

    entries = list_audio(recipe.data.valid, split="eval")
    chosen = entries[:: max(1, len(entries) // max(1, recipe.data.valid_items))][: recipe.data.valid_items]
    rate = recipe.model.output_rate
    return [decode(entry.path, rate)[: 10 * rate].astype(np.float32) / 32767 for entry in chosen]


def _crop_samples(recipe: Recipe) -> int:
    """Samples of a crop at the decoder's rate: a whole number of frames."""
    frames = round(recipe.data.crop_seconds * recipe.model.sample_rate) // recipe.model.frame_size
    return frames * recipe.model.output_frame_size


def _keep_settings(recipe: Recipe, directory: Path) -> None:
    """Note beside the checkpoint what it belongs to; refuse to resume with another model, discriminators, init or targets."""
    settings = {
        "model": recipe.model.to_dict(), "discriminators": recipe.adversary.discriminators, "init": recipe.init,
    }
    if recipe.semantic.targets:
        settings["targets"] = recipe.semantic.targets
    if recipe.schedule.decoder_only:
        settings["decoder_only"] = True
    path, text = directory / "settings.json", json.dumps(settings, indent=2)
    if (directory / "last.ckpt").exists() and path.exists() and path.read_text() != text:
        kept = json.loads(path.read_text())
        changed = " and ".join(key for key in kept | settings if kept.get(key) != json.loads(text).get(key))
        raise ConfigError(f"{directory} holds a run with another {changed}: choose another model.name or run.out")
    path.write_text(text)


def _precision(wanted: str) -> str:
    """bf16 where the hardware multiplies it fast, else float32."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "32-true"


def _loggers(directory: Path, flush_every: int) -> list:
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    loggers = [CSVLogger(directory, name="logs", flush_logs_every_n_steps=flush_every)]
    try:
        loggers.append(TensorBoardLogger(directory, name="tensorboard"))
    except ModuleNotFoundError:
        pass
    return loggers
