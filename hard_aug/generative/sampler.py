"""DiffusionSampler: the denoising loop, from pure noise or from a partly noised real image (SDEdit, arXiv:2108.01073).

A step predicts `x0` and `e` of `x` and goes to the next noise level,

    x' = signal' x0 + noise' (sqrt(1 - eta^2) e + eta n)

with fresh noise `n`. `eta = 0` is DDIM (arXiv:2010.02502) and, on straight paths, Euler's step of flow matching;
`eta = 1` is the sampling of consistency models (LCM, arXiv:2310.04378). Unlike DDIM's `eta`, which is relative to the
standard deviation of DDPM's posterior, it is relative to the whole noise of the next level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hard_aug.generative.diffusion_model import DiffusionModel
from hard_aug.generative.scheduler_settings import default_eta
from hard_aug.utils.checks import check_fraction, check_unit_interval
from hard_aug.utils.settings_repr import SettingsRepr


class DiffusionSampler(SettingsRepr):
    """The sampling steps of a diffusion model.

    Args:
        model: the denoiser with its scheduler and autoencoder.
        steps: number N of steps of the full noise schedule, with the scheduler's spacing.
        strength: fraction of the schedule that is run, in (0, 1]. Below 1 sampling starts from a noised image: at 0.5
            the image keeps its coarse structure, at 1 nothing of it remains.
        eta: stochasticity, in [0, 1], see the module's docstring; None: 1 for schedulers whose own step replaces the
            whole noise (LCM's, and flow matching's with `stochastic_sampling`), else 0.

    Attributes:
        noise_schedule: noise levels of all N steps.
        first: index of the first step that is run.

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> import diffusers
        >>> unet = diffusers.UNet2DModel(
        ...     sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,) * 4, norm_num_groups=8
        ... )
        >>> sampler = DiffusionSampler(DiffusionModel(unet, diffusers.DDIMScheduler()), steps=4, strength=0.5)
        >>> len(sampler), list(sampler.indices)
        (2, [2, 3])
        >>> labels, images = torch.zeros(3, dtype=torch.int64), torch.rand(3, 1, 8, 8)
        >>> start = sampler.start(torch.randn(3, 1, 8, 8), sampler.model.encode(images))
        >>> sampler.model.decode(sampler.run(start, labels)).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        model: DiffusionModel,
        *,
        steps: int = 10,
        strength: float = 1.0,
        eta: float | None = None,
    ) -> None:
        check_fraction(strength=strength)
        if eta is None:
            eta = default_eta(model.scheduler)
        check_unit_interval(eta=eta)
        self.model, self.steps, self.strength, self.eta = model, steps, float(strength), float(eta)
        self.noise_schedule = model.noise_schedule(steps)
        self.first = len(self.noise_schedule) - max(1, round(len(self.noise_schedule) * strength))

    def __len__(self) -> int:
        return len(self.noise_schedule) - self.first

    @property
    def indices(self) -> range:
        """Indices into the noise schedule of the steps that are run."""
        return range(self.first, len(self.noise_schedule))

    def start(self, noise: Tensor, clean: Tensor | None) -> Tensor:
        """Return the noisy latents that sampling starts from.

        Args:
            noise: `(B, c, h, w)`, standard normal.
            clean: scaled latents of real images; None: start from pure noise.

        Raises:
            ValueError: no images, though `strength` is below 1.
        """
        if clean is None:
            if self.first:
                raise ValueError(
                    f"sampling with strength={self.strength} starts from images: give images=, or strength=1.0 to "
                    "start from noise"
                )
            return noise if self.noise_schedule.start == 1 else self.noise_schedule.start * noise
        return self.noise_schedule.signal[self.first] * clean + self.noise_schedule.noise[self.first] * noise

    def step(self, clean: Tensor, noise: Tensor, index: int, step_noise: Tensor | None) -> Tensor:
        """Return the latents at the next noise level from the prediction at step `index`.

        Args:
            clean: `(B, c, h, w)`, the predicted `x0`.
            noise: `(B, c, h, w)`, the predicted `e`.
            index: index of the step in the noise schedule.
            step_noise: `(B, c, h, w)`, fresh standard normal noise; required if `eta` is above 0.

        Raises:
            ValueError: `step_noise` is missing.
        """
        signal_level, noise_level = self.noise_schedule.next_signal[index], self.noise_schedule.next_noise[index]
        if self.eta:
            if step_noise is None:
                raise ValueError(f"eta={self.eta}: expected fresh noise step_noise=, (steps, B, c, h, w)")
            noise = (1 - self.eta**2) ** 0.5 * noise + self.eta * step_noise
        return signal_level * clean + noise_level * noise

    def predict(self, sample: Tensor, labels: Tensor, index: int, *, guided: bool = True) -> tuple[Tensor, Tensor]:
        """Predict `x0` and `e` of a noisy sample; see `DiffusionModel.predict`.

        Args:
            sample: `(B, c, h, w)`.
            labels: `(B,)`.
            index: index of the step in the noise schedule.
            guided: whether to use classifier-free guidance.
        """
        return self.model.predict(sample, labels, self.noise_schedule, index, guided=guided)

    def run(
        self,
        start: Tensor,
        labels: Tensor,
        *,
        step_noise: Tensor | None = None,
        backprop_steps: int | None = None,
    ) -> Tensor:
        """Run all steps and return clean scaled latents `(B, c, h, w)`.

        Gradients: start yes.

        Args:
            start: `(B, c, h, w)`, noisy latents, see `start()`.
            labels: `(B,)`.
            step_noise: `(steps, B, c, h, w)`, fresh noise of each step, required if `eta` is above 0.
            backprop_steps: number of last steps whose denoiser is differentiated, at least 1 (DRaFT-K,
                arXiv:2309.17400); None: all. Through the earlier steps the gradient is that of a denoiser that
                predicts exactly the noise of the start, which the steps only shrink.
        """
        count = len(self) if backprop_steps is None else min(backprop_steps, len(self))
        sample, skipped = start, len(self) - count
        if skipped and start.requires_grad:
            with torch.no_grad():
                for row in range(skipped):
                    sample = self._denoise(sample, labels, row, step_noise)
            noise = self.noise_schedule.noise
            sample = sample + noise[self.first + skipped] / noise[self.first] * (start - start.detach())
        else:
            skipped = 0
        for row in range(skipped, len(self)):
            sample = self._denoise(sample, labels, row, step_noise)
        return sample

    def _denoise(self, sample: Tensor, labels: Tensor, row: int, step_noise: Tensor | None) -> Tensor:
        index = self.first + row
        fresh = step_noise[row] if self.eta and step_noise is not None else None
        return self.step(*self.predict(sample, labels, index), index, fresh)

    def invert(self, clean: Tensor, labels: Tensor) -> Tensor:
        """Compute the noise `(B, c, h, w)` from which deterministic sampling (`eta = 0`) returns to about `clean`.

        This is DDIM inversion (arXiv:2010.02502): each step back uses the prediction at the level it starts from, and
        the first one that at the cleanest level, of the image without noise. It runs without classifier-free guidance,
        under which it diverges (arXiv:2211.09794).

        Args:
            clean: `(B, c, h, w)`, scaled latents.
            labels: `(B,)`.
        """
        schedule = self.noise_schedule
        last = len(schedule) - 1
        sample = clean
        for index in reversed(self.indices):
            shown = schedule.signal[last] * clean if index == last else sample
            _, predicted_noise = self.predict(shown, labels, min(index + 1, last), guided=False)
            predicted_clean = (sample - schedule.next_noise[index] * predicted_noise) / schedule.next_signal[index]
            if index != last:
                predicted_clean = self.model.clipping.limit(predicted_clean)
            sample = schedule.signal[index] * predicted_clean + schedule.noise[index] * predicted_noise
        return (sample - schedule.signal[self.first] * clean) / schedule.noise[self.first]
