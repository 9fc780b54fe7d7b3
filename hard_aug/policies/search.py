"""Search: for each image the hardest of several draws, perhaps refined by ascent on `u` itself.

Nothing is learned from one call to the next (unless the draws come from a policy that is), so nothing can collapse, and
where there is no single invariance to find every image still gets what is hard for it. The price is paid at each call.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hard_aug.draws import normal
from hard_aug.policies.base import Policy
from hard_aug.transforms.base import Parameter


class Search(Policy):
    """The best of `candidates` draws by `D - cost(I)`, then `steps` of ascent from there; the best point seen is kept.

    A step moves `u` along its gradient by `step_size`, in root mean square over the parameters.

    Args:
        spec: the transform's parameters, `transform.spec`.
        candidates: M, at least 1.
        steps: K, at least 0.
        step_size: in units of `u`, above 0.
        draws: another policy for the same transform, which goes on learning; None: uniform in the ranges.

    Costs M forwards of both networks (none for one candidate), and K forwards and backwards and one forward more where
    K > 0. By default it only draws: at equal cost more draws were better than ascent on both data sets of
    `experiments.ablation`. `Hinge` is its invariance unless another is given. It is served by `Alternating`, whose
    `every` and `fraction` say at which calls and on which share of the batch it searches; other images get plain draws.
    """

    def __init__(
        self,
        spec: tuple[Parameter, ...],
        *,
        candidates: int = 8,
        steps: int = 0,
        step_size: float = 0.5,
        draws: Policy | None = None,
    ) -> None:
        super().__init__(spec)
        for name, value, least in (("candidates", candidates, 1), ("steps", steps, 0)):
            if not (isinstance(value, int) and value >= least):
                raise ValueError(f"{name}={value}: wanted a whole number of at least {least}")
        if not (step_size > 0 and math.isfinite(step_size)):
            raise ValueError(f"step_size={step_size}: wanted a positive number")
        if candidates == 1 and steps == 0:
            raise ValueError("Search(candidates=1, steps=0) searches nothing; give more candidates or steps")
        if draws is not None and not isinstance(draws, Policy):
            raise TypeError(f"draws={draws!r}: wanted a policy, such as Gaussian(transform.spec), or None")
        if draws is not None and draws.size != self.size:
            raise ValueError(f"the draws' policy has {draws.size} parameters, the transform {self.size}")
        if isinstance(draws, Search):
            raise ValueError("Search among the draws of a Search; give that one more candidates instead")
        self.candidates, self.steps, self.step_size = candidates, steps, step_size
        self.draws = draws
        if draws is not None:
            self.learning_rate = draws.learning_rate
            self.looks_at_images = draws.looks_at_images

    def propose(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.draws is not None:
            return self.draws.propose(images, generator)
        return normal((len(images), self.size), generator)

    def search(
        self,
        draw: Callable[[], Tensor],
        score: Callable[[Tensor], Tensor],
        ascent: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """The best `u`, `(B, P)`, detached.

        Args:
            draw: makes a candidate, `(B, P)`.
            score: `(B,)` for `u`; one that is not finite counts as the worst.
            ascent: score `(B,)` and its gradient `(B, P)` for `u`.
        """
        best = draw()
        if self.candidates > 1:
            top = _ordered(score(best))
            for _ in range(self.candidates - 1):
                candidate = draw()
                best, top = _better(best, top, candidate, score(candidate))
        if self.steps:
            u = best
            top = torch.full((len(u),), -math.inf, device=u.device)
            for _ in range(self.steps):
                found, gradient = ascent(u)
                best, top = _better(best, top, u, found)
                size = gradient.square().mean(1, keepdim=True).sqrt()
                u = u + self.step_size * (gradient / size.clamp(min=1e-30)).nan_to_num(0.0)
            best, top = _better(best, top, u, score(u))
        return best

    def relative_entropy(self, images: Tensor | None = None) -> Tensor:
        return (
            self.one_sided.new_zeros((), dtype=torch.float32)
            if self.draws is None
            else self.draws.relative_entropy(images)
        )

    def variance_share(self, images: Tensor | None = None) -> Tensor:
        return (
            torch.ones(self.size, device=self.one_sided.device)
            if self.draws is None
            else self.draws.variance_share(images)
        )

    def variables(self, u: Tensor) -> list[Tensor]:
        """The parameters of the draws' policy; what is ascended in a search is `u`."""
        return [] if self.draws is None else self.draws.variables(u)


def _ordered(scores: Tensor) -> Tensor:
    return scores.nan_to_num(-math.inf, neginf=-math.inf, posinf=math.inf)


def _better(u: Tensor, score: Tensor, other: Tensor, other_score: Tensor) -> tuple[Tensor, Tensor]:
    """By row, whichever scores higher; the first where they are equal."""
    other_score = _ordered(other_score)
    higher = other_score > score
    return torch.where(higher[:, None], other, u), torch.where(higher, other_score, score)
