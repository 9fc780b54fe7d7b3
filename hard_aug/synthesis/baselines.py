"""Baselines that a search must beat to show that its gradients help; they share the interface of `ImageSearch`.

| baseline | what it does | evaluations of a sampler with N steps |
|---|---|---|
| `Unguided` | one sample | N denoiser, 1 decoder |
| `BestOfN` | the highest score of `count` samples, one of them unguided | `count` times that, and the score |
| `PixelPGD` | gradient ascent on pixels near the real or unguided image (arXiv:1706.06083) | no denoiser if real |
"""

from __future__ import annotations

import torch
from torch import Tensor

from hard_aug.generative.nfe import NFE
from hard_aug.generative.noise import derive_seed, noise_from_seeds
from hard_aug.generative.sampler import DiffusionSampler
from hard_aug.synthesis.base import ImageSearch, SearchInputs
from hard_aug.synthesis.score import Score
from hard_aug.utils.checks import check_fraction, check_integer, check_positive_number


class Unguided(ImageSearch):
    """Sampling without a search.

    Args:
        sampler: sampler of the diffusion model.

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
        >>> Unguided(sampler)(score, torch.tensor([0, 2]), seeds=torch.arange(2), classes=3).images.shape
        torch.Size([2, 1, 8, 8])
    """

    def solve(self, score: Score, inputs: SearchInputs) -> tuple[Tensor, Tensor, NFE]:
        """See `ImageSearch.solve`."""
        images = self.sample_unguided(inputs)
        start = self._total_nfe(score)
        before = score.evaluate(images, inputs.reference)
        return images, before, self._total_nfe(score) - start


class BestOfN(ImageSearch):
    """The best of several samples; never worse than the unguided one.

    Args:
        sampler: sampler of the diffusion model.
        count: number of samples N, at least 1.

    Raises:
        ValueError: `count` is out of range.

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
        >>> result = BestOfN(sampler, count=3)(score, torch.tensor([0, 2]), seeds=torch.arange(2), classes=3)
        >>> bool((result.scores_after >= result.scores_before - 1e-5).all())
        True
    """

    def __init__(self, sampler: DiffusionSampler, *, count: int = 8) -> None:
        super().__init__(sampler)
        check_integer(count=count)
        self.count = count

    def solve(self, score: Score, inputs: SearchInputs) -> tuple[Tensor, Tensor, NFE]:
        """See `ImageSearch.solve`."""
        best = self.sample_unguided(inputs)
        before = best_scores = score.evaluate(best, inputs.reference)
        shape = (inputs.noise.shape[0], *inputs.noise.shape[2:])
        for draw in range(1, self.count):
            derived = [derive_seed(generator.initial_seed(), draw) for generator in inputs.generators]
            seeds = torch.tensor(derived, dtype=torch.int64, device="cpu")
            noise = noise_from_seeds(seeds, shape, best.device).movedim(1, 0)
            images = self.sample_unguided(inputs, noise=noise)
            scores = score.evaluate(images, inputs.reference)
            higher = scores > best_scores
            best = torch.where(higher[:, None, None, None], images, best)
            best_scores = torch.where(higher, scores, best_scores)
        return best, before, NFE()


class PixelPGD(ImageSearch):
    """Projected gradient ascent on pixels within an L-infinity ball (PGD): an adversarial example of the score.

    Args:
        sampler: sampler of the diffusion model, which generates the image to start from if no real one is given.
        eps: maximum perturbation of a pixel, in (0, 1].
        steps: number of steps, at least 1.
        alpha: step size, above 0; None: 2.5 eps / steps.

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
        >>> images = torch.rand(2, 1, 8, 8)
        >>> labels, seeds = torch.tensor([0, 2]), torch.arange(2)
        >>> result = PixelPGD(sampler, eps=0.1, steps=2)(score, labels, seeds=seeds, images=images)
        >>> bool((result.images - images).abs().max() <= 0.1 + 1e-6)
        True
    """

    encodes_images = False

    def __init__(
        self, sampler: DiffusionSampler, *, eps: float = 8 / 255, steps: int = 10, alpha: float | None = None
    ) -> None:
        super().__init__(sampler)
        check_fraction(eps=eps)
        check_integer(steps=steps)
        self.eps, self.steps = eps, steps
        self.alpha = 2.5 * eps / steps if alpha is None else alpha
        check_positive_number(alpha=self.alpha)

    def solve(self, score: Score, inputs: SearchInputs) -> tuple[Tensor, Tensor, NFE]:
        """See `ImageSearch.solve`."""
        start = self.sample_unguided(inputs) if inputs.images is None else inputs.images
        best, images, before = start, start, score.evaluate(start, inputs.reference)
        best_scores = before
        for step in range(self.steps):
            leaf = images.detach().requires_grad_()
            with torch.enable_grad():
                scores = score(leaf, inputs.reference, progress=step / self.steps, generators=inputs.generators)
                (gradient,) = torch.autograd.grad(scores.sum(), leaf)
            moved = images + self.alpha * gradient.sign().nan_to_num(0.0)
            images = torch.minimum(torch.maximum(moved, start - self.eps), start + self.eps).clamp(0, 1)
            scores = score.evaluate(images, inputs.reference)
            higher = scores > best_scores
            best = torch.where(higher[:, None, None, None], images, best)
            best_scores = torch.where(higher, scores, best_scores)
        return best, before, NFE()
