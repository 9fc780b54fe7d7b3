"""NoiseOptimizer: ascent on the noise that a chain starts from (the end-to-end form; DiG-IN, ReNO arXiv:2406.04312).

1. The variable is `d`, zero at first; the noise is `n = (e + d) |e| / |e + d|` for each image: standard normal vectors
   lie close to a sphere, and off it the denoiser has seen nothing ("shell projection").
2. The chain runs from it, from nothing or from the middle of a real image's way (`Chain.strength`).
3. Adam ascends the score on `d`, with each image's gradient brought to one size (so that images do not share a step).
4. The best of each image is kept, by the final score of the images themselves. The first is the unguided one. Where a
   preview decodes, it is chosen by that, and held against the unguided image by the autoencoder itself at the end.
5. Images whose score has reached `stop_at` are left alone, and cost nothing further.

DiG-IN's released settings for a chain of 20 steps of Stable Diffusion: Adam, 20 iterations, learning rate 0.001 for the
noise and 0.01 for the text embedding, which is not optimised here. Defaults here are ours, for chains of few steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hard_aug.solvers.base import Solver, Task
from hard_aug.solvers.chain import Chain, on_shell
from hard_aug.solvers.counts import Evaluations
from hard_aug.solvers.guidance import unit_rms
from hard_aug.solvers.score import Score, check_scores


class NoiseOptimizer(Solver):
    """The best images that were found on the way.

    Args:
        chain: of the denoiser; `Diffuser(checkpointing=True)` trades time for memory.
        iterations: steps of ascent, at least 1; each is a chain forward and backward.
        learning_rate: of Adam, in units of the noise, above 0.
        last: steps of the chain that a gradient runs through, see `Chain.run`; None: all.
        stop_at: the score from which an image is left alone; None: none is.

    Raises:
        ValueError: names the setting.
    """

    def __init__(
        self,
        chain: Chain,
        *,
        iterations: int = 10,
        learning_rate: float = 0.1,
        last: int | None = None,
        stop_at: float | None = None,
    ) -> None:
        super().__init__(chain)
        for name, count in (("iterations", iterations), ("last", 1 if last is None else last)):
            if not (isinstance(count, int) and count >= 1):
                raise ValueError(f"{name}={count}: wanted a whole number of at least 1")
        if not (learning_rate > 0 and math.isfinite(learning_rate)):
            raise ValueError(f"learning_rate={learning_rate}: wanted a positive number")
        if last is not None and last < len(chain) and chain.renoise:
            raise ValueError(
                f"last={last} of {len(chain)} steps, with renoise={chain.renoise}: fresh noise takes the place of "
                "what is optimised; use last=None"
            )
        self.iterations, self.learning_rate = iterations, learning_rate
        self.last, self.stop_at = last, stop_at

    def solve(self, score: Score, task: Task) -> tuple[Tensor, Tensor, Evaluations]:
        count = len(task.labels)
        base = task.noise[0]
        best, top = torch.zeros_like(base), torch.full((count,), -math.inf, device=base.device)
        before = top.clone()
        edit, mean, square = (torch.zeros_like(base) for _ in range(3))
        active = torch.arange(count, device=base.device)
        for step in range(self.iterations + 1):
            if not len(active):
                break
            last = step == self.iterations
            part = task.rows(active)
            latents, scores, gradient = self._evaluated(score, part, edit[active], step / self.iterations, last)
            if step == 0:  # whatever it is: what is not finite is to be seen at the end
                before, best, top = scores.clone(), latents.clone(), scores.clone()
            higher = scores > top[active]
            best[active] = torch.where(higher[:, None, None, None], latents, best[active])
            top[active] = torch.where(higher, scores, top[active])
            if last:
                break
            mean[active] = 0.9 * mean[active] + 0.1 * gradient
            square[active] = 0.999 * square[active] + 0.001 * gradient.square()
            rate = self.learning_rate / (1 - 0.9 ** (step + 1))
            root = (square[active] / (1 - 0.999 ** (step + 1))).sqrt()
            edit[active] = edit[active] + rate * mean[active] / (root + 1e-8)
            if self.stop_at is not None:
                active = active[top[active] < self.stop_at]
        check_scores(top)  # NaN where the first was, which nothing is higher than
        with torch.no_grad():
            images = self.diffuser.decode(best)
        if self.diffuser.preview is None:
            return images, before, Evaluations()
        plain = self.plain(task)  # what looks better in the preview need not be better
        before = score.final(plain, task.reference)
        better = score.final(images, task.reference) > before
        return torch.where(better[:, None, None, None], images, plain), before, Evaluations()

    def _evaluated(
        self, score: Score, task: Task, edit: Tensor, progress: float, last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The clean latents, their final score, and the search's gradient by the edit (zeros at the last one)."""
        edit = edit.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            noise = on_shell(task.noise[0] + edit, task.noise[0])
            start = self.chain.start(noise, task.clean)
            latents = self.chain.run(start, task.labels, fresh=task.noise[1:], last=self.last)
            images = self.diffuser.decode(latents, preview=True)
        final = score.final(images.detach(), task.reference)
        if last:
            return latents.detach(), final, torch.zeros_like(edit)
        with torch.enable_grad():
            found = score(images, task.reference, progress=progress, generators=task.generators)
            (gradient,) = torch.autograd.grad(found.sum(), edit)
        return latents.detach(), final, unit_rms(gradient)
