"""Adversarial training of a codec as a LightningModule, with manual optimisation.

One step is one update of the generator. Everything random in a step is drawn from hash(seed, step, rank), the position
in the data is the step number, and schedules are functions of it: what a checkpoint must hold is the step, the two
networks, the two optimisers, the quantizer's statistics and the averaged weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from codec import hub
from codec.backbones.fused import FusedEncoder
from codec.config import ConfigError
from codec.model import Codec, CodecOutput
from codec.semantic.heads import SemanticHeads
from codec.training.balancer import Balancer
from codec.training.ema import EMA
from codec.training.encoder_teacher import give_teacher
from codec.training.judges import build_judges
from codec.training.losses import SpectralLosses
from codec.training.recipe import LossConfig, Recipe
from codec.training.resampling import Resampling
from codec.training.spectra import level_gain
from codec.training.targets import Batch
from discriminators.losses import discriminator_loss, feature_matching_loss, generator_loss


Targets = Sequence[tuple[Tensor, Tensor]]  # (B, T', D) features and (B, T') valid frames of each semantic target


class CodecTraining(lightning.LightningModule):
    """Trains `self.model`. Batches are crops (B, 1, T), one a step, or a `Batch` where the recipe has semantic targets. They are at
    the decoder's rate; the encoder gets them resampled where it has another."""

    def __init__(self, recipe: Recipe, batches=None, widths: Sequence[int] = ()):
        """batches: `batch(step, rank)` gives a batch, from which the codebooks' first latents are drawn too.
        widths: of the features of each of the recipe's semantic targets."""
        super().__init__()
        self.automatic_optimization = False
        self.recipe, self.batches = recipe, batches
        torch.manual_seed(recipe.run.seed)
        self.model = Codec(recipe.model)
        rate = self.model.output_sample_rate
        self.to_input = Resampling(rate, self.model.sample_rate)
        crop_frames = round(recipe.data.crop_seconds * recipe.model.sample_rate) // recipe.model.frame_size
        processes = recipe.run.devices * recipe.run.nodes
        self.model.quantizer.prepare_training(processes * recipe.data.batch_size * crop_frames, synchronized=processes > 1)
        if recipe.init:
            self._start_from(hub.load(recipe.init))
        if recipe.schedule.decoder_only:
            self.model.encoder.requires_grad_(False)
            self.model.quantizer.requires_grad_(False)
        give_teacher(self.model.encoder, recipe.semantic.teacher, recipe.init)
        entries = recipe.adversary.discriminators
        self.discriminator = build_judges(entries, rate)
        if entries:
            self._check_excerpts(recipe)
        self.semantic = self._heads(widths)
        self.spectral = SpectralLosses(rate, recipe.loss.spectral)
        self._check_crops(crop_frames * recipe.model.output_frame_size)
        self.balancer = _balancer(recipe.loss, self.spectral.weights)
        self.ema = EMA(self.model, recipe.schedule.ema)
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))
        self.step = 0

    def _check_excerpts(self, recipe: Recipe) -> None:
        judged, judge = self._judged_samples(recipe), self.discriminator
        if judged < judge.min_samples:
            raise ConfigError(f"adversary.crop_seconds={recipe.adversary.crop_seconds} is too short for these discriminators: "
                              f"they need {judge.min_samples} samples")
        if judge.max_samples is not None and judged > judge.max_samples:
            raise ConfigError(f"adversary.crop_seconds={recipe.adversary.crop_seconds} is too long for these discriminators: "
                              f"they take {judge.max_samples} samples")

    def _check_crops(self, samples: int) -> None:
        for name, term in self.spectral.terms.items():
            if samples < term.shortest:
                raise ConfigError(f"data.crop_seconds={self.recipe.data.crop_seconds} is too short for the loss {name!r}: it needs "
                                  f"{term.shortest} samples, so make it longer or leave the loss out")

    def _heads(self, widths: Sequence[int]) -> SemanticHeads | None:
        targets = self.recipe.semantic.entries()
        if not targets:
            return None
        content = self.model.encoder.content_dim if isinstance(self.model.encoder, FusedEncoder) else None
        try:
            return SemanticHeads(targets, widths, self.model.quantizer, content)
        except ValueError as error:
            raise ConfigError(f"semantic.targets: {error}") from None

    def _start_from(self, model: Codec) -> None:
        """Fine-tune: take weights and codebooks of a trained model of the same shape."""
        own, given = (replace(config, name="", level=None, spectrum=None) for config in (self.model.config, model.config))
        if own != given:
            raise ConfigError(f"init={self.recipe.init} has another configuration than this recipe's model: make them equal")
        if self.model.config.level is None:
            self.model.config = replace(self.model.config, level=model.config.level, spectrum=model.config.spectrum)
        self.model.load_state_dict(model.state_dict(), strict=False)
        self.model.quantizer.start_from_codebooks()

    # Optimisers

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        schedule = self.recipe.schedule
        options = {"betas": schedule.adam_betas, "weight_decay": schedule.weight_decay}
        groups = [(self._generator(), schedule.learning_rate)]
        if self.discriminator is not None:
            groups.append((list(self.discriminator.parameters()), self.recipe.adversary.learning_rate))
        return [torch.optim.AdamW(parameters, lr=rate, **options) for parameters, rate in groups]

    def _generator(self) -> list[torch.nn.Parameter]:
        """Of what is trained of the codec, and of the heads that only training has."""
        if self.recipe.schedule.decoder_only:
            return list(self.model.decoder.parameters())
        return [*self.model.parameters(), *(self.semantic.parameters() if self.semantic is not None else ())]

    def rate_factor(self, step: int) -> float:
        """Learning rate at a step relative to its highest: linear warm-up, constant, cosine decay."""
        schedule = self.recipe.schedule
        warmup = min(1.0, (step + 1) / max(1, schedule.warmup))
        begin = schedule.steps * (1 - schedule.decay)
        progress = min(1.0, max(0.0, (step - begin) / max(1.0, schedule.steps - begin)))
        return warmup * (schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * progress)))

    # One step

    def training_step(self, batch: Tensor | Batch, batch_index: int) -> None:
        batch, targets = batch if isinstance(batch, Batch) else (batch, ())
        step, schedule, adversary = self.step, self.recipe.schedule, self.recipe.adversary
        torch.manual_seed(_hash(self.recipe.run.seed, step, self.global_rank))
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer, rate in zip(optimizers, (schedule.learning_rate, adversary.learning_rate)):
            for group in optimizer.param_groups:
                group["lr"] = rate * self.rate_factor(step)
        if step < self.recipe.semantic.student_first:
            self._update_student(optimizers[0], batch, targets)
            return
        if schedule.decoder_only:  # no running averages of codebooks, no dropout
            self.model.encoder.eval()
            self.model.quantizer.eval()
        quantize = step >= schedule.quantize_from or self.model.quantizer.initialized
        if quantize and not self.model.quantizer.initialized:
            self._initialize_codebooks()
        judged = self.discriminator is not None and step >= adversary.start and step % adversary.every == 0

        active = self._active(batch.shape[0]) if quantize else None
        output = self.model(self.to_input(batch), active, quantize)
        spectral = self.spectral(output.audio, batch)
        judgement: dict[str, Tensor] = {}
        if judged:
            real, fake = self._sub_crops(batch, output.audio)
            self._update_discriminator(optimizers[1], real, fake.detach())
            self.discriminator.requires_grad_(False)
            judged_fake = self.discriminator(fake)
            with torch.no_grad():
                judged_real = self.discriminator(real)
            judgement = {
                "adversarial": generator_loss(judged_fake, adversary.kind),
                "feature_matching": feature_matching_loss(judged_real, judged_fake),
            }
        reconstruction = spectral.terms if self.recipe.loss.balance == "encodec" else {"reconstruction": spectral.total}
        gradient = self.balancer.gradient(reconstruction | judgement, output.audio)
        if judged:
            self.discriminator.requires_grad_(True)
        # One backward pass through the codec: the balanced gradient at its output, the quantizer's losses at its latents.
        objective = (output.audio * gradient).sum()
        if quantize:
            weights = {"commitment": self.recipe.loss.commitment}  # a quantizer weighs its other losses itself
            objective = objective + sum(weights.get(name, 1.0) * loss for name, loss in output.losses.items())
        semantic = self._semantic_losses(output, active, targets)
        objective = objective + self._weighted(semantic)
        norm = self._update_generator(optimizers[0], objective)
        terms = {"reconstruction": spectral.total} | spectral.terms | judgement | output.losses | semantic
        self._log_step(terms, output.stats, norm)

    def _update_student(self, optimizer: Any, wav: Tensor, targets: Targets) -> None:
        """A step of the student in the encoder alone, on the teacher's features."""
        _, content, _ = self.model.encoder.with_content(self.to_input(wav))
        empty = wav.new_zeros(0)
        output = CodecOutput(empty, empty, empty, None, {}, {}, content)
        semantic = self._semantic_losses(output, None, targets)
        objective = self._weighted(semantic)
        norm = self._update_generator(optimizer, objective)
        self._log_step({"reconstruction": objective} | semantic, {}, norm)

    def _semantic_losses(self, output: CodecOutput, active: Tensor | None, targets: Targets) -> dict[str, Tensor]:
        if self.semantic is None:
            return {}
        with torch.autocast(self.device.type, enabled=False):
            return self.semantic(output, self.model.quantizer, active, targets)

    def _weighted(self, semantic: dict[str, Tensor]) -> Tensor | float:
        """Sum of the losses "semantic_1" and so on, each with its target's weight."""
        targets = self.semantic.targets if self.semantic is not None else ()
        return sum(targets[int(name.rpartition("_")[2]) - 1].weight * loss for name, loss in semantic.items())

    def _update_generator(self, optimizer: Any, objective: Tensor) -> Tensor:
        """One update, and with it one step. Returns the gradient's norm."""
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(objective)
        norm = self._clipped_step(self._generator(), optimizer)
        self.ema.update(self.model, self.step)
        self.step += 1
        self.steps_done.fill_(self.step)
        return norm

    def _update_discriminator(self, optimizer: Any, real: Tensor, fake: Tensor) -> None:
        loss = discriminator_loss(self.discriminator(real), self.discriminator(fake), self.recipe.adversary.kind)
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        self._clipped_step(list(self.discriminator.parameters()), optimizer)
        self.log("discriminator", loss.detach())

    def _clipped_step(self, parameters: list[torch.nn.Parameter], optimizer: Any) -> Tensor:
        """Clip the gradient's norm and update; a gradient that is not finite is dropped, so that one bad batch does no harm."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.recipe.schedule.clip)
        if torch.isfinite(norm):
            optimizer.step()
        return norm

    def _sub_crops(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The same random excerpt of both (B, 1, T): discriminators cost more than the codec."""
        length = min(real.shape[-1], self._judged_samples(self.recipe))
        start = int(torch.randint(0, real.shape[-1] - length + 1, ()))
        real, fake = real[..., start : start + length], fake[..., start : start + length]
        if not self.recipe.adversary.normalize:
            return real, fake
        gain, _ = level_gain(real)
        return gain * real, gain * fake

    @staticmethod
    def _judged_samples(recipe: Recipe) -> int:
        return round(min(recipe.adversary.crop_seconds, recipe.data.crop_seconds) * recipe.model.output_rate)

    def _active(self, batch: int) -> Tensor:
        """Quantizer dropout: codebooks (B,) of each item. A share `full_rate` uses all, the others 1..K by weight."""
        schedule, quantizer = self.recipe.schedule, self.model.quantizer
        weights = torch.tensor(schedule.dropout_weights)
        weights = F.pad(weights, (0, max(0, quantizer.num_codebooks - len(weights))))
        counts = torch.tensor(quantizer.counts)
        weights = weights[counts - 1]
        if weights.sum() <= 0:  # only together, say
            return torch.full((batch,), quantizer.num_codebooks, device=self.device)
        active = counts[torch.multinomial(weights, batch, replacement=True)]
        full = torch.rand(batch) < schedule.full_rate
        return torch.where(full, quantizer.num_codebooks, active).to(self.device)

    @torch.no_grad()
    def _initialize_codebooks(self) -> None:
        steps = range(2**31, 2**31 + self.recipe.schedule.init_batches)  # of the data: none that training will see
        batches = (self.batches(step, 0) for step in steps)
        crops = (batch.wav if isinstance(batch, Batch) else batch for batch in batches)
        latents = [self.model.encoder(self.to_input(wav.to(self.device)))[0].float() for wav in crops]
        self.model.quantizer.initialize(torch.cat(latents))

    # Records

    def _log_step(self, terms: dict[str, Tensor], stats: dict[str, Tensor], norm: Tensor) -> None:
        values = {name: value.detach() for name, value in terms.items()}
        if self.step % self.recipe.run.log_every == 0:
            for name, per_codebook in stats.items():
                values |= {f"{name}_{index + 1}": value for index, value in enumerate(per_codebook)}
        self.log_dict(values | {"gradient_norm": norm, "step": float(self.step)})
        self.log("loss", values["reconstruction"], prog_bar=True, logger=False)

    # Resuming

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = self.ema.state_dict()
        checkpoint["balancer"] = self.balancer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        for name in [name for name in state if name.startswith("spectral.")]:  # filters, which earlier versions kept
            del state[name]
        self.ema.load_state_dict(checkpoint["ema"])
        if "balancer" in checkpoint:
            self.balancer.load_state_dict(checkpoint["balancer"])
        self.step = int(state["steps_done"])
        # For Lightning a run that ended by its steps or its time has finished its epoch; ours can always go on.
        checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"].update(processed=0, completed=0)


def _balancer(loss: LossConfig, spectral: dict[str, float]) -> Balancer:
    shares = {"adversarial": loss.adversarial_share, "feature_matching": loss.feature_share}
    if loss.balance == "encodec":
        return Balancer(spectral | shares)
    return Balancer({"reconstruction": 1.0} | shares, decay=0.0, reference="reconstruction")


def _hash(*numbers: int) -> int:
    """A seed that differs for every tuple of numbers."""
    return int(np.random.SeedSequence([n % 2**32 for n in numbers]).generate_state(1, np.uint64)[0] >> 1)
