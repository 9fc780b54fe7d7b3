"""Search: for each image the hardest of several draws, perhaps refined by gradient ascent on `u` itself.

Nothing is learned from one call to the next (unless the draws come from a policy that learns), so nothing can collapse,
and without a single invariance to find every image still gets what is hard for it. The price is paid at each call.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hard_aug.policies.base import Policy
from hard_aug.policies.uniform import Uniform
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.checks import check_integer, check_positive_number


class Search(Policy):
    """The best of `candidates` draws by `D - cost(I)`, then `steps` of gradient ascent; the best point seen is kept.

    A step moves `u` along its gradient by `step_size`, in root mean square over the parameters.

    It costs M forwards of both networks (none for one candidate), and K forwards and backwards and one forward more if
    K > 0. By default it only draws: at equal cost more draws were better than gradient ascent on both data sets of
    the experiments' ablation, and draws need no gradient through the teacher. Its default invariance is `Hinge`. The
    schedule's `every` and `fraction` say at which calls and on what fraction of the batch it searches; other images get
    plain draws.

    Args:
        spec: the transform's parameters, `transform.spec`.
        candidates: M, at least 1.
        steps: K, at least 0.
        step_size: in units of `u`, above 0.
        proposal: another policy for the same transform, which goes on learning; None: `Uniform(spec)`.

    Raises:
        TypeError: a proposal that is no policy.
        ValueError: settings out of range, or a proposal that is a `Search` or for another transform.

    Example:
        >>> from hard_aug.transforms import Affine
        >>> search = Search(Affine().spec, candidates=4)
        >>> search.candidates, search.is_per_sample
        (4, True)
    """

    is_per_sample = True

    def __init__(
        self,
        spec: tuple[Parameter, ...],
        *,
        candidates: int = 8,
        steps: int = 0,
        step_size: float = 0.5,
        proposal: Policy | None = None,
    ) -> None:
        super().__init__(spec)
        check_integer(candidates=candidates)
        check_integer(0, steps=steps)
        check_positive_number(step_size=step_size)
        if candidates == 1 and steps == 0:
            raise ValueError("Search(candidates=1, steps=0) searches nothing; give more candidates or steps")
        proposal = Uniform(spec) if proposal is None else proposal
        if not isinstance(proposal, Policy):
            raise TypeError(f"proposal={proposal!r}: expected a policy, such as Gaussian(transform.spec), or None")
        proposal.check_spec(spec)
        if proposal.is_per_sample:
            raise ValueError("a Search cannot be the proposal of a Search; give that one more candidates instead")
        self.candidates, self.steps = candidates, steps = int(candidates), int(steps)
        self.step_size = float(step_size)
        self.proposal = proposal
        # A gradient takes a forward and a backward of both networks, a score a forward of both.
        self.refine_evaluations = (2 * candidates if candidates > 1 else 0) + (4 * steps + 2 if steps else 0)
        self.learning_rate = proposal.learning_rate
        self.is_conditional = proposal.is_conditional
        self.learns_from_scores = proposal.learns_from_scores
        self.starts_from_reach = proposal.starts_from_reach

    def sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Policy.sample`."""
        return self.proposal.sample(images, generator)

    def set_reach(self, reach: Tensor) -> None:
        """See `Policy.set_reach`; it is that of the proposal."""
        self.proposal.set_reach(reach)

    def statistics(self, u: Tensor, scores: Tensor) -> list[Tensor]:
        """See `Policy.statistics`; they are those of the proposal."""
        return self.proposal.statistics(u, scores)

    def learn(self, statistics: list[Tensor]) -> None:
        """See `Policy.learn`; the proposal does."""
        self.proposal.learn(statistics)

    def refine(
        self,
        u: Tensor,
        *,
        sample: Callable[[], Tensor],
        score: Callable[[Tensor], Tensor],
        score_with_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """See `Policy.refine`; the search starts from new draws. Scores that are not finite count as the worst."""
        best = sample()
        if self.candidates > 1:
            top = _ordered(score(best))
            for _ in range(self.candidates - 1):
                candidate = sample()
                best, top = _better(best, top, candidate, score(candidate))
        if self.steps:
            u = best
            top = u.new_full((len(u),), -math.inf)
            for _ in range(self.steps):
                found, gradient = score_with_gradient(u)
                best, top = _better(best, top, u, found)
                size = gradient.square().mean(1, keepdim=True).sqrt()
                u = u + self.step_size * (gradient / size.clamp(min=1e-30)).nan_to_num(0.0)
            best, top = _better(best, top, u, score(u))
        return best

    def relative_entropy(self, images: Tensor | None = None) -> Tensor:
        """See `Policy.relative_entropy`; it is that of the proposal."""
        return self.proposal.relative_entropy(images)

    def relative_variance(self, images: Tensor | None = None) -> Tensor:
        """See `Policy.relative_variance`; it is that of the proposal."""
        return self.proposal.relative_variance(images)


def _ordered(scores: Tensor) -> Tensor:
    return scores.nan_to_num(-math.inf, neginf=-math.inf, posinf=math.inf)


def _better(u: Tensor, score: Tensor, other: Tensor, other_score: Tensor) -> tuple[Tensor, Tensor]:
    """Keep, row by row, what scores higher; the first where they are equal."""
    other_score = _ordered(other_score)
    higher = other_score > score
    return torch.where(higher[:, None], other, u), torch.where(higher, other_score, score)
