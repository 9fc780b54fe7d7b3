"""Parts of an augmenter: the defaults, and the table of refusals.

Parts that cannot work together are rejected at construction; the error names one that works.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from hard_aug.inner_loop.exploration import Exploration
from hard_aug.objectives import KL, Constraint, Disagreement, Hinge, Invariance, KeepRate, Penalty
from hard_aug.policies import Gaussian, GroupBandit, Policy
from hard_aug.schedules import Alternating, Schedule
from hard_aug.transforms import Menu, Transform
from hard_aug.utils.checks import check_kinds
from hard_aug.utils.distributed import ProcessGroup

DEFAULT_SCHEDULE = Alternating(fraction=0.25, every=6)


class Parts(NamedTuple):
    """The parts of an augmenter; see `HardAugmenter`."""

    policy: Policy
    objective: Disagreement
    invariance: Invariance
    schedule: Schedule
    exploration: Exploration


def complete_parts(
    transform: Transform,
    *,
    policy: Policy | None,
    objective: Disagreement | None,
    invariance: Invariance | None,
    schedule: Schedule | None,
    exploration: Exploration | None,
) -> Parts:
    """Return the parts, with the defaults of `HardAugmenter` for those that are None.

    Args:
        transform: what may be done to an image.
        policy: where its parameters come from.
        objective: what is maximised.
        invariance: how the teacher's prediction is kept.
        schedule: when the policy is updated.
        exploration: the defence against collapse.

    Raises:
        TypeError: parts of the wrong class.
        ValueError: parts that cannot work together.
    """
    if policy is None:
        policy = GroupBandit(transform.spec) if isinstance(transform, Menu) else Gaussian(transform.spec)
    objective = KL() if objective is None else objective
    check_kinds(policy=(policy, Policy), objective=(objective, Disagreement))
    if invariance is None:
        invariance = Hinge() if policy.is_per_sample else Penalty()
    if schedule is None:
        schedule = Alternating() if policy.is_per_sample else DEFAULT_SCHEDULE
    exploration = Exploration() if exploration is None else exploration
    check_kinds(
        invariance=(invariance, Invariance), schedule=(schedule, Schedule), exploration=(exploration, Exploration)
    )
    check_parts(transform=transform, policy=policy, objective=objective, invariance=invariance, schedule=schedule)
    return Parts(policy, objective, invariance, schedule, exploration)


def check_cuda_graph(device: torch.device, *, policy: Policy, schedule: Schedule, processes: ProcessGroup) -> None:
    """Check that there is a policy update that a CUDA graph can hold.

    Args:
        device: of the networks.
        policy: what is learned.
        schedule: when it is updated.
        processes: of the run.

    Raises:
        ValueError: there is none; the message names what to use instead.
    """
    if device.type != "cuda":
        raise ValueError(
            f"cuda_graph=True: expected the networks on a CUDA device, and they are on {device}; leave it out"
        )
    if not processes.is_single:
        raise ValueError("cuda_graph=True: expected a single process (communication is not captured); leave it out")
    if schedule.requires_distillation_loss:
        raise ValueError("cuda_graph=True replays updates inside the call, and Joint makes none; leave it out")
    if not list(policy.parameters()):
        what = "learns without gradients" if policy.learns_from_scores else "learns nothing"
        raise ValueError(
            f"cuda_graph=True replays policy updates by gradients, and this {type(policy).__name__} {what}; leave it "
            "out, or use policy=Gaussian(transform.spec)"
        )


def check_parts(
    *, transform: Transform, policy: Policy, objective: Disagreement, invariance: Invariance, schedule: Schedule
) -> None:
    """Check that the parts of an augmenter can work together.

    Args:
        transform: what may be done to an image.
        policy: where its parameters come from.
        objective: what is maximised.
        invariance: how the teacher's prediction is kept.
        schedule: when the policy is updated.

    Raises:
        ValueError: they cannot; the message names what to use instead.
    """
    objective_name, policy_name, schedule_name = (type(part).__name__ for part in (objective, policy, schedule))
    policy.check_spec(transform.spec)
    has_gradient = bool(list(policy.parameters()))
    learns = has_gradient or (policy.learns_from_scores and not schedule.requires_distillation_loss)
    if schedule.requires_learned_policy and (policy.is_per_sample or not learns):
        what = "optimises each image's own" if policy.is_per_sample else "learns none by gradients"
        raise ValueError(
            f"{schedule_name} updates a policy's parameters, and {policy_name} {what}; use schedule=Alternating()"
        )
    if schedule.requires_distillation_loss and not isinstance(objective, KL):
        raise ValueError(
            f"{schedule_name} takes the student's gradient from the distillation loss, which {objective_name} is not; "
            "use schedule=Alternating()"
        )
    if schedule.requires_divergence and not objective.is_divergence:
        raise ValueError(
            f"{schedule_name} compares with multiples of the objective on clean images, which are meaningless for "
            f"{objective_name} (it is no divergence); use schedule=Alternating(), or objective=KL()"
        )
    if policy.is_per_sample and isinstance(invariance, Constraint):
        raise ValueError(
            f"Constraint bounds the mean over batches, and {policy_name} scores each image by itself; use "
            f"invariance=Hinge(epsilon={invariance.epsilon})"
        )
    if policy.is_per_sample and isinstance(invariance, KeepRate):
        raise ValueError(
            f"KeepRate follows a fraction of many images, and {policy_name} scores each image by itself; use "
            "invariance=Hinge()"
        )
    if transform.requires_partner and (objective.requires_one_class or objective.requires_student_reference):
        raise ValueError(
            f"{objective_name} requires the prediction on one image, and the transform mixes two; use objective=KL()"
        )
