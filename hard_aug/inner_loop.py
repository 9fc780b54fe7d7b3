"""The inner loop: the ascents that schedules make inside a call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hard_aug.adversary import Adversary
from hard_aug.objectives import Reference
from hard_aug.policies import Search
from hard_aug.schedules import Alternating, Phase, Schedule, Threshold
from hard_aug.transforms import Context


def ascend_in_call(
    adversary: Adversary,
    schedule: Schedule,
    phase: Phase,
    images: Tensor,
    answers: Reference,
    context: Context,
    *,
    ascend: Callable[[Tensor, Reference, Context], Tensor],
) -> None:
    """Make the ascents of one call that is due, each by `ascend`, on the schedule's share of `images`, `(B, C, H, W)`.

    `ascend` is `adversary.ascend`, or what plays that back.
    """
    share = schedule.share(len(images))
    images, context, answers = _first(images, share), context.first(share), answers.first(share)
    if isinstance(schedule, Alternating):
        for _ in range(schedule.steps if adversary.ascent.parameters else 0):
            ascend(images, answers, context)
    elif isinstance(schedule, Threshold):
        with torch.no_grad():
            student_logits = adversary.players.student_logits(images)
        clean = adversary.objective(
            teacher_logits=answers.teacher_logits, student_logits=student_logits, reference=answers
        )
        phase.see_clean(mean_of_all(adversary, clean), schedule)
        for _ in range(schedule.max_steps if phase.ascending else 0):
            disagreement = ascend(images, answers, context)
            if not phase.ascended(mean_of_all(adversary, disagreement[None]), schedule):
                break


def mean_of_all(adversary: Adversary, disagreement: Tensor) -> float:
    """The mean of `(B,)` over all processes, on the host."""
    (mean,) = adversary.ascent.processes.mean([disagreement.detach().mean()], len(disagreement))
    return float(mean)


def searched(
    adversary: Adversary, share: int, images: Tensor, u: Tensor, answers: Reference, context: Context
) -> Tensor:
    """`u`, `(B, P)`, with the first `share` rows replaced by what the policy's search finds."""
    if not isinstance(adversary.policy, Search):
        return u
    found = adversary.search(adversary.policy, _first(images, share), answers.first(share), context.first(share))
    u = u.clone()
    u[:share] = found
    return u


def _first(images: Tensor, count: int) -> Tensor:
    """The first `count`; the very tensor where that is all, for transforms that know it again."""
    return images if count == len(images) else images[:count]
