"""What training costs beside seconds: network evaluations, the same on every machine.

Passes of an image through a network, teacher's and student's alike:

| pass | evaluations |
|---|---|
| forward | 1 |
| backward to the image alone, the network being frozen | 1 |
| backward to the image and to the parameters | 2 |

Augmenting, evaluating on test sets and training the teacher are not counted. What HARD's ascents cost is counted from
the ascents that took place:

| what | teacher | student | of the batch |
|---|---|---|---|
| an ascent of `Alternating` or `Threshold` | forward, backward to the image | the same | `fraction` |
| a call of `Joint` that is due | forward, backward to the image | none: its own step has it | `fraction` |
| a call of `Threshold` that is due | | forward on clean images | `fraction` |
| a `Search` of M candidates and K steps | M forwards, K both, one forward more if K > 0 | the same | `fraction` |
| an objective that wants the student's answer to clean images | | forward, at each call that is due | all |
"""

from __future__ import annotations

import math

from hard_aug import HardAugmenter
from hard_aug.policies import Search
from hard_aug.schedules import Alternating, Joint, Threshold

FORWARD = 1
IMAGE_BACKWARD = 1
BACKWARD = 2
#: Of the network that learns.
TRAINED = FORWARD + BACKWARD
#: The teacher on two views of an image, and the student trained on both.
TWO_VIEWS = 2 * FORWARD + 2 * TRAINED
#: One look of both players with a gradient to the image.
LOOK = 2 * (FORWARD + IMAGE_BACKWARD)


def ascents(augmenter: HardAugmenter) -> int:
    """How many ascents of the policy there were, the dropped ones among them."""
    state = augmenter.state_dict()
    steps = [int(moments["step"]) for moments in state["optimizer"]["state"].values() if "step" in moments]
    return max(steps, default=0) + int(state["dropped"])


def of_augmenter(augmenter: HardAugmenter, images: int) -> float:
    """What the ascents and searches of an augmenter have cost that was called on so many images, all calls together."""
    calls = int(augmenter.state_dict()["calls"])
    if not calls:
        return 0.0
    return _cost(
        augmenter, batch=images / calls, due=math.ceil(calls / augmenter.schedule.every), ascents=ascents(augmenter)
    )


def planned_of_augmenter(augmenter: HardAugmenter) -> float:
    """What the ascents and searches will cost for each image in the long run, `schedule.fraction` not rounded.

    Raises:
        ValueError: a schedule that decides as it goes.
    """
    schedule = augmenter.schedule
    if isinstance(schedule, Threshold):
        raise ValueError(
            "what schedule=threshold will cost is not known before; take budget=steps, or another schedule"
        )
    learned = any(True for _ in augmenter.policy.parameters())
    steps = schedule.steps if learned and isinstance(schedule, Alternating) else 0
    return _cost(augmenter, batch=1.0, due=1 / schedule.every, ascents=steps / schedule.every)


def _cost(augmenter: HardAugmenter, *, batch: float, due: float, ascents: float) -> float:
    """Of calls on `batch` images each, `due` of which may ascend and search, with so many ascents in all."""
    schedule, policy = augmenter.schedule, augmenter.policy
    share = batch * schedule.fraction
    if isinstance(schedule, Joint):  # one ascent may be of several calls, micro-batches
        cost = due * share * LOOK / 2 if schedule.teacher_gradient else 0.0
    else:
        cost = ascents * share * LOOK
    if isinstance(schedule, Threshold):
        cost += due * share * FORWARD
    if augmenter.objective.wants_student_reference:
        cost += due * batch * FORWARD
    if isinstance(policy, Search):
        draws = 2 * FORWARD * policy.candidates if policy.candidates > 1 else 0
        refinement = policy.steps * LOOK + 2 * FORWARD if policy.steps else 0
        cost += due * share * (draws + refinement)
    return cost
