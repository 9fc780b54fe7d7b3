"""GuidedSampler: guidance of the sampling by the gradient of a score, training-free (TFG, arXiv:2409.15761).

At each step of the chain, with `J` the score, `x0` the denoiser's prediction, `a_t = signal_t^2`, `g(.)` the gradient
of the mean of `J` over `smooth` noisy copies, `x0 + smooth_sigma noise_t n`, and `r_t = a_t / a_{t-1}`:

    D_0 = sum over i of mu g_{x0}(x0 + D_0)          (iterations times)
    D_t = rho_t g_{x_t}(x0(x_t))                      (through the denoiser)
    x_{t-1} = step(x_t, x0, e) + D_t / sqrt(r_t) + signal_{t-1} D_0

repeated `recurrence` times with `x_t` drawn anew from `x_{t-1}`. It contains

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

with `k = sqrt(1 - renoise^2)`, the share of `e` in the next level's noise.

`sqrt(r_t)` is taken to be at least `LEAST_RATIO`. A chain from nearly pure noise (the cosine schedule of the models
that ship; not diffusers' linear one) has one clamped step, its first: `sqrt(r_t)` is 0.0003 there at 10 steps, and the
push is smaller than that of FreeDoM and classifier guidance. With `normalized` (the default) each sample's gradient has
the root mean square 1, so that `mu` and `rho` are in units of latents; else they are the raw gradient's factors.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hard_aug.solvers.base import Solver, Task
from hard_aug.solvers.chain import Chain, drawn, mixed_seed
from hard_aug.solvers.counts import Evaluations
from hard_aug.solvers.score import Score

Shape = Literal["constant", "noise", "classifier"]
#: `sqrt(r_t)` is taken to be at least this: it is nearly 1 in chains of many steps, and nearly 0 at the start of those
#: of few, where the push would be the whole image.
LEAST_RATIO = 0.1


class GuidedSampler(Solver):
    """Samples that are pushed up the score on their way.

    Args:
        chain: of the denoiser.
        mu: step on `x0`, at least 0.
        rho: step on `x_t`, at least 0.
        iterations: steps on `x0` at each level, at least 1.
        recurrence: times that each level is done, at least 1.
        shape: of rho over the levels.
        mu_shape: of mu: `constant`, or `noise`, times the level's: small steps at the end, which nothing denoises.
        smooth: noisy copies that a gradient is the mean of, at least 1.
        smooth_sigma: their noise, in units of the level's, at least 0; 0: no noise.
        window: the share of the chain's way that is guided, (from, to) in [0, 1].
        normalized: see the module's head.
        seed: of the noise of recurrence and smoothing, with each image's own.
        measure_before: also score the unguided images of the same seeds, which takes a chain more.

    Raises:
        ValueError: names the setting.
    """

    def __init__(
        self,
        chain: Chain,
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
        super().__init__(chain)
        for name, number in (("mu", mu), ("rho", rho), ("smooth_sigma", smooth_sigma)):
            if not number >= 0:
                raise ValueError(f"{name}={number}: wanted a number of at least 0")
        for name, count in (("iterations", iterations), ("recurrence", recurrence), ("smooth", smooth)):
            if not (isinstance(count, int) and count >= 1):
                raise ValueError(f"{name}={count}: wanted a whole number of at least 1")
        if shape not in ("constant", "noise", "classifier"):
            raise ValueError(f"shape={shape!r}: wanted constant, noise or classifier")
        if not 0 <= window[0] < window[1] <= 1:
            raise ValueError(f"window={window}: wanted (from, to) with 0 <= from < to <= 1")
        if not any(window[0] <= row / len(chain) < window[1] for row in range(len(chain))):
            raise ValueError(f"window={window}: no step of this chain of {len(chain)} lies in it; make it wider")
        if mu_shape not in ("constant", "noise"):
            raise ValueError(f"mu_shape={mu_shape!r}: wanted constant or noise")
        self.mu, self.rho, self.iterations, self.recurrence = mu, rho, iterations, recurrence
        self.shape, self.mu_shape = shape, mu_shape
        self.smooth, self.smooth_sigma = smooth, smooth_sigma
        self.window, self.normalized = window, normalized
        self.seed, self.measure_before = seed, measure_before

    @classmethod
    def mpgd(cls, chain: Chain, *, step: float = 0.3, measure_before: bool = True) -> GuidedSampler:
        """Steps on the predicted clean image alone, smaller ones at less noise: no backward of the denoiser."""
        return cls(chain, mu=step, mu_shape="noise", measure_before=measure_before)

    @classmethod
    def classifier(cls, chain: Chain, *, scale: float = 1.0, measure_before: bool = True) -> GuidedSampler:
        """Classifier guidance by a classifier of clean images, through the predicted one."""
        return cls(chain, rho=scale, shape="classifier", measure_before=measure_before)

    def solve(self, score: Score, task: Task) -> tuple[Tensor, Tensor, Evaluations]:
        if self.measure_before:
            before, extra = self.measured_before(score, task)
        else:
            before, extra = torch.full((len(task.labels),), torch.nan, device=task.labels.device), Evaluations()
        chain, levels = self.chain, self.chain.levels
        sample = chain.start(task.noise[0], task.clean)
        draws = [torch.Generator().manual_seed(mixed_seed(g.initial_seed(), 1 + self.seed)) for g in task.generators]
        for row, index in enumerate(chain.indices):
            share = row / len(chain)
            guided = self.window[0] <= share < self.window[1] and (self.mu > 0 or self.rho > 0)
            fresh = task.noise[1 + row] if chain.renoise else None
            for again in reversed(range(self.recurrence if guided else 1)):
                onward = self._step(score, task, sample, index, fresh, draws) if guided else None
                if onward is None:
                    with torch.no_grad():
                        onward = chain.onward(*chain.predict(sample, task.labels, index), index, fresh)
                if again:
                    ratio = levels.signal[index] / levels.signal[index + 1]
                    spread = (levels.noise[index] ** 2 - (ratio * levels.noise[index + 1]) ** 2).clamp(min=0).sqrt()
                    sample = ratio * onward + spread * drawn(draws, tuple(sample.shape[1:])).to(sample)
                else:
                    sample = onward
        with torch.no_grad():
            return self.diffuser.decode(sample), before, extra

    def _step(
        self,
        score: Score,
        task: Task,
        sample: Tensor,
        index: int,
        fresh: Tensor | None,
        draws: list[torch.Generator],
    ) -> Tensor:
        chain, levels = self.chain, self.chain.levels
        next_signal = levels.signal[index + 1]
        progress = (index - chain.first) / max(1, len(chain) - 1)
        through = self.rho > 0
        sample = sample.detach().requires_grad_(through)
        with torch.set_grad_enabled(through):
            clean, found = chain.predict(sample, task.labels, index)
        copies = self._copies(clean, index, draws)
        push = torch.zeros_like(sample)
        if through:
            gradient = self._gradient(score, task, clean, sample, copies, progress)
            push = self._push(index) * gradient
        clean, found = clean.detach(), found.detach()
        edit = torch.zeros_like(clean)
        step = self.mu * levels.noise[index] if self.mu_shape == "noise" else self.mu
        for _ in range(self.iterations if self.mu > 0 else 0):
            place = (clean + edit).requires_grad_()
            edit = edit + step * self._gradient(score, task, place, place, copies, progress)
        return chain.onward(clean, found, index, fresh) + push + next_signal * edit

    def _push(self, index: int) -> Tensor:
        """What the gradient on `x_t` is multiplied by, `rho_t / sqrt(r_t)`."""
        levels = self.chain.levels
        noise, next_noise = levels.noise[index], levels.noise[index + 1]
        ratio = (levels.signal[index] / levels.signal[index + 1]).clamp(min=LEAST_RATIO)
        if self.shape == "constant":
            return self.rho / ratio
        if self.shape == "noise":
            return self.rho * noise / ratio
        kept = (1 - self.chain.renoise**2) ** 0.5  # of the predicted noise, at the next level
        push: Tensor = self.rho * noise * (noise / ratio - kept * next_noise)
        return push

    def _copies(self, clean: Tensor, index: int, draws: list[torch.Generator]) -> list[Tensor]:
        """What is added to `x0` before it is scored; one zero where nothing is smoothed."""
        if not self.smooth_sigma:
            return [torch.zeros((), device=clean.device)]
        scale = self.smooth_sigma * self.chain.levels.noise[index]
        return [scale * drawn(draws, tuple(clean.shape[1:])).to(clean) for _ in range(self.smooth)]

    def _gradient(
        self, score: Score, task: Task, clean: Tensor, place: Tensor, copies: list[Tensor], progress: float
    ) -> Tensor:
        """Of the mean score of noisy copies of `clean`, by `place`; a row of it is zero where it is not finite."""
        leaf = clean.detach().requires_grad_()
        gradient = torch.zeros_like(leaf)
        with torch.enable_grad():
            for copy in copies:  # one after the other, so that one graph is held at a time
                images = self.diffuser.decode(leaf + copy, preview=True)
                scores = score(images, task.reference, progress=progress, generators=task.generators)
                gradient += torch.autograd.grad(scores.sum() / len(copies), leaf)[0]
            if place is not clean:
                (gradient,) = torch.autograd.grad(clean, place, gradient)
        if self.normalized:
            return unit_rms(gradient)
        return gradient.masked_fill(~gradient.isfinite().all(1).all(1).all(1)[:, None, None, None], 0.0)


def unit_rms(gradient: Tensor) -> Tensor:
    """Each row `(c, h, w)` with the root mean square 1; rows that are zero or not finite become zeros."""
    # By the largest first: squares of what players that are sure leave over would be zeros.
    shrunk = gradient / gradient.abs().amax((1, 2, 3), keepdim=True)
    size = shrunk.square().mean((1, 2, 3), keepdim=True).sqrt()
    return (shrunk / size).nan_to_num(0.0, posinf=0.0, neginf=0.0)
