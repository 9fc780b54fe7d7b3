"""Controls: what a search has to beat, with its signature. Without them nobody can say that gradients helped.

| control | what it does | evaluations of a chain of N steps |
|---|---|---|
| `Unguided` | one sample | N denoiser, 1 decoder |
| `BestOfN` | the highest score of `count` samples, one of them unguided | `count` times that, and the score |
| `PixelPGD` | ascent on pixels near the real (or unguided) image (arXiv:1706.06083) | with images: no denoiser |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hard_aug.solvers.base import Solver, Task
from hard_aug.solvers.chain import Chain, mixed_seed, noise_of
from hard_aug.solvers.counts import Evaluations
from hard_aug.solvers.score import Score


class Unguided(Solver):
    """The chain alone."""

    def solve(self, score: Score, task: Task) -> tuple[Tensor, Tensor, Evaluations]:
        images = self.plain(task)
        taken = self._count(score)
        before = score.final(images, task.reference)
        return images, before, self._count(score) - taken


class BestOfN(Solver):
    """The best of several samples; never worse than the unguided one.

    Args:
        chain: of the denoiser.
        count: N, at least 1.

    Raises:
        ValueError: names the setting.
    """

    def __init__(self, chain: Chain, *, count: int = 8) -> None:
        super().__init__(chain)
        if not (isinstance(count, int) and count >= 1):
            raise ValueError(f"count={count}: wanted a whole number of at least 1")
        self.count = count

    def solve(self, score: Score, task: Task) -> tuple[Tensor, Tensor, Evaluations]:
        best = self.plain(task)
        before = top = score.final(best, task.reference)
        shape = (task.noise.shape[0], *task.noise.shape[2:])
        for draw in range(1, self.count):
            seeds = torch.tensor([mixed_seed(g.initial_seed(), draw) for g in task.generators])
            noise = noise_of(seeds, shape, best.device).movedim(1, 0)
            images = self.plain(task, noise=noise)
            scores = score.final(images, task.reference)
            higher = scores > top
            best = torch.where(higher[:, None, None, None], images, best)
            top = torch.where(higher, scores, top)
        return best, before, Evaluations()


class PixelPGD(Solver):
    """Projected gradient ascent on pixels: the adversarial example of the score.

    Args:
        chain: of the denoiser, which makes the image that it starts from where no real one is given.
        radius: of the box, in [0, 1].
        steps: at least 1.
        step_size: above 0; None: 2.5 radius / steps.

    Raises:
        ValueError: names the setting.
    """

    encodes_images = False

    def __init__(
        self, chain: Chain, *, radius: float = 8 / 255, steps: int = 10, step_size: float | None = None
    ) -> None:
        super().__init__(chain)
        if not 0 < radius <= 1:
            raise ValueError(f"radius={radius}: wanted a number in (0, 1]")
        if not (isinstance(steps, int) and steps >= 1):
            raise ValueError(f"steps={steps}: wanted a whole number of at least 1")
        if step_size is not None and not (step_size > 0 and math.isfinite(step_size)):
            raise ValueError(f"step_size={step_size}: wanted a positive number")
        self.radius, self.steps = radius, steps
        self.step_size = 2.5 * radius / steps if step_size is None else step_size

    def solve(self, score: Score, task: Task) -> tuple[Tensor, Tensor, Evaluations]:
        start = self.plain(task) if task.images is None else task.images
        best, images, before = start, start, score.final(start, task.reference)
        top = before
        for step in range(self.steps):
            place = images.detach().requires_grad_()
            with torch.enable_grad():
                scores = score(place, task.reference, progress=step / self.steps, generators=task.generators)
                (gradient,) = torch.autograd.grad(scores.sum(), place)
            moved = images + self.step_size * gradient.sign().nan_to_num(0.0)
            images = torch.minimum(torch.maximum(moved, start - self.radius), start + self.radius).clamp(0, 1)
            scores = score.final(images, task.reference)
            higher = scores > top
            best = torch.where(higher[:, None, None, None], images, best)
            top = torch.where(higher, scores, top)
        return best, before, Evaluations()
