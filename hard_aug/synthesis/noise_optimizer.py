"""NoiseOptimizer: gradient ascent on the noise that sampling starts from (DiG-IN; ReNO, arXiv:2406.04312).

1. The variable is `d`, zero at first; the noise is `n = (e + d) |e| / |e + d|` for each image: standard normal vectors
   lie close to a sphere, and the denoiser was not trained off it.
2. Sampling runs from it, from pure noise or from a noised real image (`DiffusionSampler.strength`).
3. Adam maximises the score in `d`, with each image's gradient normalised (so that images do not share a step size).
4. The best result of each image is kept, by the final score of the images themselves. The first one is the unguided
   image. If a preview decodes, the best is selected with it, and compared with the unguided image by the autoencoder
   itself at the end.
5. Images whose score has reached `stop_at` are not optimised further, and cost nothing.

DiG-IN's released settings for 20 steps of Stable Diffusion: Adam, 20 iterations, learning rate 0.001 for the noise and
0.01 for the text embedding, which is not optimised here. Our defaults are for few sampling steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hard_aug.generative.nfe import NFE
from hard_aug.generative.noise import match_norm
from hard_aug.generative.sampler import DiffusionSampler
from hard_aug.synthesis.base import ImageSearch, SearchInputs
from hard_aug.synthesis.guided_sampler import unit_rms
from hard_aug.synthesis.score import Score, check_scores
from hard_aug.utils.checks import check_integer, check_positive_number


class NoiseOptimizer(ImageSearch):
    """Optimisation of the initial noise; returns the best image of the optimisation.

    Args:
        sampler: sampler of the diffusion model; `DiffusionModel(checkpointing=True)` trades time for memory.
        iterations: number of gradient steps, at least 1; each is a forward and a backward pass of the whole sampling.
        learning_rate: learning rate of Adam, in units of the noise, above 0.
        backprop_steps: number of last sampling steps that are differentiated (DRaFT-K), see `DiffusionSampler.run`;
            None: all.
        stop_at: score from which an image is not optimised further; None: no limit.

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
        >>> search = NoiseOptimizer(sampler, iterations=2, backprop_steps=1)
        >>> result = search(score, torch.tensor([0, 2]), seeds=torch.arange(2), classes=3)
        >>> bool((result.scores_after >= result.scores_before - 1e-5).all())
        True
    """

    def __init__(
        self,
        sampler: DiffusionSampler,
        *,
        iterations: int = 10,
        learning_rate: float = 0.1,
        backprop_steps: int | None = None,
        stop_at: float | None = None,
    ) -> None:
        super().__init__(sampler)
        check_integer(iterations=iterations, backprop_steps=backprop_steps)
        check_positive_number(learning_rate=learning_rate)
        if backprop_steps is not None and backprop_steps < len(sampler) and sampler.eta:
            raise ValueError(
                f"backprop_steps={backprop_steps} of {len(sampler)} steps, with eta={sampler.eta}: fresh noise in the "
                "earlier steps replaces the optimised noise; use backprop_steps=None"
            )
        self.iterations, self.learning_rate = iterations, learning_rate
        self.backprop_steps, self.stop_at = backprop_steps, stop_at

    def solve(self, score: Score, inputs: SearchInputs) -> tuple[Tensor, Tensor, NFE]:
        """See `ImageSearch.solve`."""
        count = len(inputs.labels)
        base = inputs.noise[0]
        best, best_scores = (
            torch.zeros_like(base),
            torch.full((count,), -math.inf, dtype=torch.float32, device=base.device),
        )
        before = best_scores.clone()
        edit, mean, square = (torch.zeros_like(base) for _ in range(3))
        active = torch.arange(count, device=base.device)
        for step in range(self.iterations + 1):
            if not len(active):
                break
            last = step == self.iterations
            part = inputs.select(active)
            latents, scores, gradient = self._evaluate(score, part, edit[active], step / self.iterations, last)
            if step == 0:  # also if it is not finite, so that the check at the end sees it
                before, best, best_scores = scores.clone(), latents.clone(), scores.clone()
            higher = scores > best_scores[active]
            best[active] = torch.where(higher[:, None, None, None], latents, best[active])
            best_scores[active] = torch.where(higher, scores, best_scores[active])
            if last:
                break
            mean[active] = 0.9 * mean[active] + 0.1 * gradient
            square[active] = 0.999 * square[active] + 0.001 * gradient.square()
            rate = self.learning_rate / (1 - 0.9 ** (step + 1))
            root = (square[active] / (1 - 0.999 ** (step + 1))).sqrt()
            edit[active] = edit[active] + rate * mean[active] / (root + 1e-8)
            if self.stop_at is not None:
                active = active[best_scores[active] < self.stop_at]
        check_scores(best_scores)  # NaN where the first score was: no score is higher than NaN
        with torch.no_grad():
            images = self.model.decode(best)
        if self.model.preview is None:
            return images, before, NFE()
        unguided = self.sample_unguided(inputs)  # an image that is better in the preview need not be better
        before = score.evaluate(unguided, inputs.reference)
        better = score.evaluate(images, inputs.reference) > before
        return torch.where(better[:, None, None, None], images, unguided), before, NFE()

    def _evaluate(
        self, score: Score, inputs: SearchInputs, edit: Tensor, progress: float, last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the clean latents, their final score, and the normalised gradient in the edit (zeros if `last`)."""
        edit = edit.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            noise = match_norm(inputs.noise[0] + edit, inputs.noise[0])
            start = self.sampler.start(noise, inputs.clean)
            latents = self.sampler.run(
                start, inputs.labels, step_noise=inputs.noise[1:], backprop_steps=self.backprop_steps
            )
            images = self.model.decode(latents, preview=True)
        final = score.evaluate(images.detach(), inputs.reference)
        if last:
            return latents.detach(), final, torch.zeros_like(edit)
        with torch.enable_grad():
            scores = score(images, inputs.reference, progress=progress, generators=inputs.generators)
            (gradient,) = torch.autograd.grad(scores.sum(), edit)
        return latents.detach(), final, unit_rms(gradient)
