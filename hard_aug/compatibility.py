"""Which parts work together. Pairs that can't are refused where they are put together, with the one that does."""

from __future__ import annotations

import torch

from hard_aug.objectives import Constraint, Disagreement, Invariance
from hard_aug.policies import Policy, Search
from hard_aug.processes import Processes
from hard_aug.schedules import Joint, Schedule, Threshold
from hard_aug.transforms import Transform


def check_capture(device: torch.device, *, schedule: Schedule, policy: Policy, processes: Processes) -> None:
    """Raise `ValueError` where there is no inner loop that a CUDA graph could hold, naming what serves instead."""
    if device.type != "cuda":
        raise ValueError(f"capture=True wants the networks on a CUDA device, and they are on {device}; leave it out")
    if not processes.alone:
        raise ValueError("capture=True is for one process: what several exchange is not captured; leave it out")
    if isinstance(schedule, Joint):
        raise ValueError(
            "capture=True plays back the ascents inside a call, and Joint ascends by the caller's own backward; use "
            "schedule=Alternating(), or leave it out"
        )
    if isinstance(policy, Search) and policy.draws is None:
        raise ValueError("capture=True plays back a policy's ascents, and this Search learns nothing; leave it out")


def check_parts(
    *, transform: Transform, policy: Policy, objective: Disagreement, invariance: Invariance, schedule: Schedule
) -> None:
    """Raise `ValueError` for parts that can't work together, naming what serves instead."""
    name = type(objective).__name__
    if policy.size != transform.size:
        raise ValueError(
            f"the policy has {policy.size} parameters and the transform {transform.size}; "
            f"use {type(policy).__name__}(transform.spec)"
        )
    if isinstance(policy, Search) and isinstance(schedule, Joint | Threshold):
        raise ValueError(
            f"{type(schedule).__name__} ascends a policy's parameters, and Search ascends each image's own; "
            "use schedule=Alternating()"
        )
    if isinstance(schedule, Joint) and not objective.is_distillation_loss:
        raise ValueError(
            f"Joint takes the student's part from the distillation loss, which {name} is not; use "
            "schedule=Alternating()"
        )
    if isinstance(schedule, Threshold) and not objective.is_divergence:
        raise ValueError(
            f"Threshold compares with multiples of the objective on clean images, which for {name} mean nothing (it is "
            "no divergence); use schedule=Alternating(), or objective=KL()"
        )
    if isinstance(policy, Search) and isinstance(invariance, Constraint):
        raise ValueError(
            "Constraint bounds the mean over batches, and Search judges each image by itself; use "
            f"invariance=Hinge(epsilon={invariance.epsilon})"
        )
    if transform.wants_partner and (objective.wants_one_class or objective.wants_student_reference):
        raise ValueError(f"{name} asks for the answer to one image, and the transform mixes two; use objective=KL()")
