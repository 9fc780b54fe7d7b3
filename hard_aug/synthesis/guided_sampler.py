"""GuidedSampler: training-free guidance of sampling by the gradient of a score (TFG, arXiv:2409.15761).

At each step of the sampler, with `J` the score, `x0` the denoiser's prediction, `a_t = signal_t^2`, `g(.)` the gradient
of the mean of `J` over `smooth` noisy copies, `x0 + smooth_sigma noise_t n`, and `r_t = a_t / a_{t-1}`:

    D_0 = sum over i of mu g_{x0}(x0 + D_0)          (iterations times)
    D_t = rho_t g_{x_t}(x0(x_t))                      (through the denoiser)
    x_{t-1} = step(x_t, x0, e) + D_t / sqrt(r_t) + signal_{t-1} D_0

repeated `recurrence` times with `x_t` sampled again from `x_{t-1}`. It contains

| method | settings | backward of the denoiser |
|---|---|---|
| unguided | mu = rho = 0 | no |
| MPGD (arXiv:2311.16424) | mu, one iteration | no |
| FreeDoM (arXiv:2303.09833), up to its step sizes | rho, recurrence | yes |
| x0-classifier guidance (as in `clip_guided_stable_diffusion`) | rho, `shape="classifier"` | yes |

| shape | rho_t |
|---|---|
| `constant` | rho |
| `noise` | rho noise_t |
| `classifier` | rho noise_t (signal_{t-1} noise_t / signal_t - k noise_{t-1}) sqrt(r_t): that of `e - rho noise_t g` |

with `k = sqrt(1 - eta^2)`, the fraction of `e` in the next level's noise.

`sqrt(r_t)` is clamped to at least `MIN_RATIO`. In sampling from almost pure noise (the cosine schedule of the shipped
models; not diffusers' linear one) this affects the first step: `sqrt(r_t)` is 0.0003 there at 10 steps, and the push is
smaller than that of FreeDoM and classifier guidance. With `normalized` (the default) the gradient of each sample has
root mean square 1, so that `mu` and `rho` are in units of latents; otherwise they multiply the raw gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hard_aug.generative.nfe import NFE
from hard_aug.generative.noise import derive_seed, randn_rows
from hard_aug.generative.sampler import DiffusionSampler
from hard_aug.synthesis.base import ImageSearch, SearchInputs
from hard_aug.synthesis.score import Score
from hard_aug.utils.checks import as_seed, check_integer, check_nonnegative

Shape = Literal["constant", "noise", "classifier"]
#: Lower bound of `sqrt(r_t)`, which is nearly 1 with many steps, and nearly 0 at the first of few steps, where the push
#: would replace the whole image.
MIN_RATIO = 0.1


class GuidedSampler(ImageSearch):
    """Sampling guided towards a higher score.

    Args:
        sampler: sampler of the diffusion model.
        mu: step size on `x0`, at least 0.
        rho: step size on `x_t`, at least 0.
        iterations: number of steps on `x0` at each noise level, at least 1.
        recurrence: number of repetitions of each noise level, at least 1.
        shape: schedule of rho over the noise levels.
        mu_shape: schedule of mu: `constant`, or `noise`, proportional to the noise level: small steps at the end, where
            nothing is left to denoise them.
        smooth: number of noisy copies over which a gradient is averaged, at least 1.
        smooth_sigma: their noise, in units of the level's, at least 0; 0: no noise.
        window: the part of sampling that is guided, fractions (from, to) in [0, 1].
        normalized: whether gradients are normalised, see the module's docstring.
        seed: seed of the noise of recurrence and smoothing, combined with each image's own.
        measure_before: whether to score the unguided images of the same seeds too, which samples once more.

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> import diffusers
        >>> from torch import nn
        >>> from hard_aug.generative import DiffusionModel
        >>> unet = diffusers.UNet2DModel(
        ...     sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,) * 4, norm_num_groups=8
        ... )
        >>> sampler = DiffusionSampler(DiffusionModel(unet, diffusers.DDIMScheduler()), steps=2)
        >>> teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2))
        >>> score = Score(teacher=teacher, student=student)
        >>> search = GuidedSampler(sampler, mu=0.2, rho=0.2, recurrence=2)
        >>> search(score, torch.tensor([0, 2]), seeds=torch.arange(2), classes=3).images.shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        sampler: DiffusionSampler,
        *,
        mu: float = 0.0,
        rho: float = 0.0,
        iterations: int = 1,
        recurrence: int = 1,
        shape: Shape = "constant",
        mu_shape: Literal["constant", "noise"] = "constant",
        smooth: int = 1,
        smooth_sigma: float = 0.0,
        window: tuple[float, float] = (0.0, 1.0),
        normalized: bool = True,
        seed: int = 0,
        measure_before: bool = True,
    ) -> None:
        super().__init__(sampler)
        check_nonnegative(mu=mu, rho=rho, smooth_sigma=smooth_sigma)
        check_integer(iterations=iterations, recurrence=recurrence, smooth=smooth)
        if shape not in ("constant", "noise", "classifier"):
            raise ValueError(f"shape={shape!r}: expected constant, noise or classifier")
        if not 0 <= window[0] < window[1] <= 1:
            raise ValueError(f"window={window}: expected (from, to) with 0 <= from < to <= 1")
        if not any(window[0] <= row / len(sampler) < window[1] for row in range(len(sampler))):
            raise ValueError(f"window={window}: contains none of the sampler's {len(sampler)} steps; make it wider")
        if mu_shape not in ("constant", "noise"):
            raise ValueError(f"mu_shape={mu_shape!r}: expected constant or noise")
        self.mu, self.rho, self.iterations, self.recurrence = mu, rho, iterations, recurrence
        self.shape, self.mu_shape = shape, mu_shape
        self.smooth, self.smooth_sigma = smooth, smooth_sigma
        self.window, self.normalized = window, normalized
        self.seed, self.measure_before = as_seed(seed), measure_before

    @classmethod
    def mpgd(cls, sampler: DiffusionSampler, *, step: float = 0.3, measure_before: bool = True) -> GuidedSampler:
        """Build MPGD: steps on the predicted clean image only, smaller at less noise; no backward of the denoiser.

        Args:
            sampler: sampler of the diffusion model.
            step: `mu`, proportional to the noise level.
            measure_before: see the class.
        """
        return cls(sampler, mu=step, mu_shape="noise", measure_before=measure_before)

    @classmethod
    def classifier(cls, sampler: DiffusionSampler, *, scale: float = 1.0, measure_before: bool = True) -> GuidedSampler:
        """Build classifier guidance by classifiers of clean images, through the predicted clean image.

        Args:
            sampler: sampler of the diffusion model.
            scale: guidance scale, `rho`.
            measure_before: see the class.
        """
        return cls(sampler, rho=scale, shape="classifier", measure_before=measure_before)

    def solve(self, score: Score, inputs: SearchInputs) -> tuple[Tensor, Tensor, NFE]:
        """See `ImageSearch.solve`."""
        labels = inputs.labels
        if self.measure_before:
            before, excluded = self.score_unguided(score, inputs)
        else:
            before, excluded = labels.new_full((len(labels),), torch.nan, dtype=torch.float32), NFE()
        sampler, schedule = self.sampler, self.sampler.noise_schedule
        sample = sampler.start(inputs.noise[0], inputs.clean)
        seeds = [derive_seed(generator.initial_seed(), 1 + self.seed) for generator in inputs.generators]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for row, index in enumerate(sampler.indices):
            guided = self.window[0] <= row / len(sampler) < self.window[1] and (self.mu > 0 or self.rho > 0)
            step_noise = inputs.noise[1 + row] if sampler.eta else None
            for remaining in reversed(range(self.recurrence if guided else 1)):
                if guided:
                    following = self._guided_step(score, inputs, sample, index, step_noise, generators)
                else:
                    with torch.no_grad():
                        following = sampler.step(*sampler.predict(sample, labels, index), index, step_noise)
                if remaining:  # add noise to return to this level
                    ratio = schedule.signal[index] / schedule.next_signal[index]
                    variance = schedule.noise[index] ** 2 - (ratio * schedule.next_noise[index]) ** 2
                    fresh = randn_rows(generators, tuple(sample.shape[1:])).to(sample)
                    sample = ratio * following + variance.clamp(min=0).sqrt() * fresh
                else:
                    sample = following
        with torch.no_grad():
            return self.model.decode(sample), before, excluded

    def _guided_step(
        self,
        score: Score,
        inputs: SearchInputs,
        sample: Tensor,
        index: int,
        step_noise: Tensor | None,
        generators: list[torch.Generator],
    ) -> Tensor:
        sampler, schedule = self.sampler, self.sampler.noise_schedule
        next_signal = schedule.next_signal[index]
        progress = (index - sampler.first) / max(1, len(sampler) - 1)
        through_denoiser = self.rho > 0
        sample = sample.detach().requires_grad_(through_denoiser)
        with torch.set_grad_enabled(through_denoiser):
            clean, noise = sampler.predict(sample, inputs.labels, index)
        offsets = self._smoothing_offsets(clean, index, generators)
        push = torch.zeros_like(sample)
        if through_denoiser:
            gradient = self._gradient(score, inputs, clean, sample, offsets, progress)
            push = self._push_factor(index) * gradient
        clean, noise = clean.detach(), noise.detach()
        edit = torch.zeros_like(clean)
        step_size = self.mu * schedule.noise[index] if self.mu_shape == "noise" else self.mu
        for _ in range(self.iterations if self.mu > 0 else 0):
            point = (clean + edit).requires_grad_()
            edit = edit + step_size * self._gradient(score, inputs, point, point, offsets, progress)
        return sampler.step(clean, noise, index, step_noise) + push + next_signal * edit

    def _push_factor(self, index: int) -> Tensor:
        """Return the factor of the gradient on `x_t`, `rho_t / sqrt(r_t)`."""
        schedule = self.sampler.noise_schedule
        noise, next_noise = schedule.noise[index], schedule.next_noise[index]
        ratio = (schedule.signal[index] / schedule.next_signal[index]).clamp(min=MIN_RATIO)
        if self.shape == "constant":
            return self.rho / ratio
        if self.shape == "noise":
            return self.rho * noise / ratio
        kept = (1 - self.sampler.eta**2) ** 0.5  # of the predicted noise, at the next level
        return self.rho * noise * (noise / ratio - kept * next_noise)  # type: ignore[no-any-return]  # of tensors

    def _smoothing_offsets(self, clean: Tensor, index: int, generators: list[torch.Generator]) -> list[Tensor]:
        """Return the noise added to `x0` before it is scored; a single zero without smoothing."""
        if not self.smooth_sigma:
            return [clean.new_zeros(())]
        scale = self.smooth_sigma * self.sampler.noise_schedule.noise[index]
        shape = tuple(clean.shape[1:])
        return [scale * randn_rows(generators, shape).to(clean) for _ in range(self.smooth)]

    def _gradient(
        self,
        score: Score,
        inputs: SearchInputs,
        clean: Tensor,
        variable: Tensor,
        offsets: list[Tensor],
        progress: float,
    ) -> Tensor:
        """Return the gradient of the mean score of `clean + offset` in `variable`; rows not finite become zero."""
        leaf = clean.detach().requires_grad_()
        gradient = torch.zeros_like(leaf)
        with torch.enable_grad():
            for offset in offsets:  # one after the other, so that only one graph is in memory
                images = self.model.decode(leaf + offset, preview=True)
                scores = score(images, inputs.reference, progress=progress, generators=inputs.generators)
                gradient += torch.autograd.grad(scores.sum() / len(offsets), leaf)[0]
            if variable is not clean:
                (gradient,) = torch.autograd.grad(clean, variable, gradient)
        if self.normalized:
            return unit_rms(gradient)
        return gradient.masked_fill(~gradient.isfinite().all(1).all(1).all(1)[:, None, None, None], 0.0)


def unit_rms(gradient: Tensor) -> Tensor:
    """Normalise each row `(c, h, w)` to root mean square 1; rows that are zero or not finite become zero."""
    # Scaled by the largest value first: the squares of the tiny gradients of confident networks would underflow.
    scaled = gradient / gradient.abs().amax((1, 2, 3), keepdim=True)
    rms = scaled.square().mean((1, 2, 3), keepdim=True).sqrt()
    return (scaled / rms).nan_to_num(0.0, posinf=0.0, neginf=0.0)
