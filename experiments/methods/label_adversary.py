"""A label-based adversary, as in adversarial augmentation that does not compare a teacher with a student.

In TeachAugment (Suzuki, arXiv:2203.00282) the augmenter maximises the student's cross-entropy with the label while a
teacher, there a moving average of the student, still recognises the label; TST (IJCAI 2023) uses such an adversary for
distillation. Transforms, policies, exploration, schedules and the student's loss are HARD's and have the same settings,
so that a comparison is one of the objective and of the invariance term.

| | maximised | preserved |
|---|---|---|
| HARD | `KL(teacher, student)` | the teacher's prediction |
| here | `-log s` or `log(1 - s)`, `s` the student's probability of the label | `-log t`, `t` the teacher's |
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from experiments.methods.base import Hard
from hard_aug import Exploration, HardAugmenter
from hard_aug.objectives import Disagreement, Penalty, Reference
from hard_aug.policies import Generator, Policy
from hard_aug.schedules import Alternating
from hard_aug.transforms import Transform
from hard_aug.utils.checks import check_nonnegative


class LabelConflict(Disagreement):
    """The student's loss with the label minus `weight` times the teacher's, per sample `(B,)`, in nats.

    Args:
        weight: of the teacher's cross-entropy, >= 0.
        non_saturating: use `log(1 - s)` for the student, as TeachAugment does, whose gradient is large while the
            student is confident; False: its cross-entropy, `-log s`, which is unbounded once the student is wrong.
    """

    requires_labels = True
    requires_one_class = True

    def __init__(self, *, weight: float = 1.0, non_saturating: bool = True) -> None:
        check_nonnegative(weight=weight)
        self.weight, self.non_saturating = float(weight), non_saturating

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        """See `Disagreement.__call__`."""
        if reference is None or reference.labels is None:
            raise ValueError("LabelConflict requires labels: call augmenter(images, labels)")
        label = reference.labels.long()[:, None]
        teacher, student = teacher_logits.float().log_softmax(1), student_logits.float().log_softmax(1)
        if self.non_saturating:
            at_label = torch.zeros_like(student, dtype=torch.bool).scatter(1, label, True)
            gain = student.masked_fill(at_label, -math.inf).logsumexp(1)
        else:
            gain = -student.gather(1, label).squeeze(1)
        return gain + self.weight * teacher.gather(1, label).squeeze(1)


class LabelAdversary(Hard):
    """`HardAugmenter` with a label-based objective.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        transform: any that does not mix images, since a mix has no single label.
        policy: makes a policy for the transform's spec; None: `Generator`.
        temperature: of the distillation.
        weight: see `LabelConflict`.
        non_saturating: see `LabelConflict`.
        every: calls from one policy update to the next, see `Alternating`.
        fraction: of the batch that the policy is updated on.
        steps: gradient ascent steps of each update.
        entropy_weight: see `Exploration`.
        min_variance: see `Exploration`.
        min_uniform_fraction: see `Exploration`.
        learning_rate: of the policy; None: the policy's own.
        seed: of the augmenter's draws.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        *,
        transform: Transform,
        policy: Callable[..., Policy] | None = None,
        temperature: float,
        weight: float = 1.0,
        non_saturating: bool = True,
        every: int = 6,
        fraction: float = 0.25,
        steps: int = 1,
        entropy_weight: float = 0.08,
        min_variance: float | None = 0.15,
        min_uniform_fraction: float = 0.0,
        learning_rate: float | None = None,
        seed: int = 0,
    ) -> None:
        augmenter = HardAugmenter(
            teacher=teacher,
            student=student,
            transform=transform,
            policy=(Generator if policy is None else policy)(transform.spec),
            objective=LabelConflict(weight=weight, non_saturating=non_saturating),
            invariance=Penalty(0.0),  # the label is preserved instead, by the objective
            schedule=Alternating(every=every, fraction=fraction, steps=steps),
            exploration=Exploration(
                entropy_weight=entropy_weight, min_variance=min_variance, min_uniform_fraction=min_uniform_fraction
            ),
            learning_rate=learning_rate,
            seed=seed,
        )
        super().__init__(augmenter, temperature=temperature)
