"""Cost of training in network evaluations: passes of one image through a network, the same on every machine.

Passes through the teacher and through the student count alike:

| pass | evaluations |
|---|---|
| forward | 1 |
| backward to the image only, the network being frozen | 1 |
| backward to the image and to the parameters | 2 |

Augmenting, evaluating on test sets and training the teacher are not counted. The cost of an augmenter is counted from
the policy updates that took place:

| event | teacher | student | of the batch |
|---|---|---|---|
| a policy update of `Alternating` or `Threshold` | forward, backward to the image | the same | `fraction` |
| a policy update from scores alone (`GroupBandit`) | forward | forward on hard and on clean images | `fraction` |
| a calibration | `Calibration.evaluations` forwards of single images, once | | |
| a call of `Threshold` that is due | | forward on clean images | `fraction` |
| a `Search` of M candidates and K steps | M forwards, K of both, one forward more if K > 0 | the same | `fraction` |
| an objective that requires the student's clean prediction | | forward, at each call that is due | all |
"""

from __future__ import annotations

import math

from hard_aug.augmenter import HardAugmenter

FORWARD = 1
IMAGE_BACKWARD = 1
BACKWARD = 2
#: Forward and backward of the network that is trained.
TRAINED = FORWARD + BACKWARD
#: The teacher on two views of an image, and the student trained on both.
TWO_VIEWS = 2 * FORWARD + 2 * TRAINED
#: Forward of both networks, and backward to the image: the score of an image and its gradient.
SCORE_GRADIENT = 2 * (FORWARD + IMAGE_BACKWARD)


def count_policy_updates(augmenter: HardAugmenter) -> int:
    """Return the number of policy updates so far, including those dropped because a gradient was not finite.

    Of a policy that learns from scores they are not counted, but those of all calls in which one was due.

    Args:
        augmenter: that has been called.
    """
    if not _has_gradient(augmenter):
        due = math.ceil(int(augmenter.state_dict()["calls"]) / augmenter.schedule.every)
        return due * (augmenter.schedule.updates_per_call or 1) if augmenter.policy.learns_from_scores else 0
    moments = augmenter.state_dict()["optimizer"]["state"].values()
    steps = [int(state["step"]) for state in moments if "step" in state]
    return max(steps, default=0) + augmenter.dropped_steps


def augmenter_evaluations(augmenter: HardAugmenter, images: int) -> float:
    """Return the network evaluations that calibration, policy updates and searches of an augmenter have cost so far.

    Args:
        augmenter: that has been called.
        images: total number of images of all its calls.

    Example:
        >>> import torch
        >>> from hard_aug import HardAugmenter
        >>> from hard_aug.evaluation import augmenter_evaluations
        >>> from hard_aug.schedules import Alternating
        >>> from hard_aug.transforms import Affine
        >>> teacher, student = (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)) for _ in range(2))
        >>> schedule = Alternating(fraction=0.5)
        >>> augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule)
        >>> hard = augmenter(torch.rand(8, 1, 8, 8))
        >>> augmenter_evaluations(augmenter, images=8)
        16.0
    """
    calls = int(augmenter.state_dict()["calls"])
    if not calls:
        return 0.0
    due = math.ceil(calls / augmenter.schedule.every)
    updates = count_policy_updates(augmenter)
    found = augmenter.calibration
    calibration = 0.0 if found is None else FORWARD * found.evaluations
    return calibration + _cost(augmenter, batch=images / calls, due=due, updates=updates)


def planned_augmenter_evaluations(augmenter: HardAugmenter) -> float:
    """Return the network evaluations per image that policy updates and searches will cost in the long run.

    Args:
        augmenter: whose `schedule.fraction` is not rounded to whole images here.

    Raises:
        ValueError: a schedule that decides during training.
    """
    schedule = augmenter.schedule
    updates = schedule.updates_per_call
    if updates is None:
        raise ValueError(
            f"the cost of the schedule {type(schedule).__name__} is not known in advance: it decides during training. "
            "Budget training by steps, or use another schedule"
        )
    learned = _has_gradient(augmenter) or augmenter.policy.learns_from_scores
    return _cost(augmenter, batch=1.0, due=1 / schedule.every, updates=updates / schedule.every if learned else 0)


def _cost(augmenter: HardAugmenter, *, batch: float, due: float, updates: float) -> float:
    """Return the cost of calls on `batch` images each, `due` of which may update or search, with `updates` in all."""
    schedule, policy = augmenter.schedule, augmenter.policy
    rows = batch * schedule.fraction
    update = SCORE_GRADIENT if _has_gradient(augmenter) else 0.0
    if policy.learns_from_scores:  # both networks on the hard images, the student on the clean ones
        update += FORWARD if _has_gradient(augmenter) else 3 * FORWARD
    cost = updates * rows * update + due * rows * (schedule.student_forwards + policy.refine_evaluations)
    if augmenter.objective.requires_student_reference:
        cost += due * batch * FORWARD
    return cost


def _has_gradient(augmenter: HardAugmenter) -> bool:
    return any(True for _ in augmenter.policy.parameters())
