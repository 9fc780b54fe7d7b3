"""An adversary that looks at labels: what adversarial augmentation was before teacher and student were set apart.

In TeachAugment (Suzuki, arXiv:2203.00282) the augmenter maximises the loss of the student with the label while a
teacher, there a moving mean of the student, still recognises it; TST (IJCAI 2023) has such an opponent for
distillation. Everything else (transforms, policies, their spread, schedules, the student's loss) is HARD's and can be
set as HARD's is; where both are, what is compared is the objective and what is kept.

| | maximised | kept |
|---|---|---|
| HARD | `KL(teacher, student)` | the teacher's answer |
| here | `-log s` or `log(1 - s)`, `s` the student's probability of the label | `-log t`, `t` the teacher's |
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from experiments.methods import Hard
from hard_aug import HardAugmenter
from hard_aug.objectives import Disagreement, Penalty, Reference
from hard_aug.policies import Generator, Policy
from hard_aug.schedules import Alternating
from hard_aug.transforms import Transform


class LabelConflict(Disagreement):
    """The student's loss with the label less `weight` times the teacher's, per sample `(B,)`, in nats.

    Args:
        weight: of the teacher's cross-entropy, at least 0.
        non_saturating: `log(1 - s)` for the student's part, whose gradient is large while the student is sure, as
            TeachAugment has it; else its cross-entropy, `-log s`, which grows without bound once it is lost.
    """

    wants_labels = True
    wants_one_class = True

    def __init__(self, *, weight: float = 1.0, non_saturating: bool = True) -> None:
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"weight={weight}: wanted a number of at least 0")
        self.weight, self.non_saturating = float(weight), non_saturating

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        if reference is None or reference.labels is None:
            raise ValueError("LabelConflict wants labels: call augmenter(images, labels)")
        label = reference.labels.long()[:, None]
        teacher, student = teacher_logits.float().log_softmax(1), student_logits.float().log_softmax(1)
        if self.non_saturating:
            at_label = torch.zeros_like(student, dtype=torch.bool).scatter(1, label, True)
            gain = student.masked_fill(at_label, -math.inf).logsumexp(1)
        else:
            gain = -student.gather(1, label).squeeze(1)
        return gain + self.weight * teacher.gather(1, label).squeeze(1)


class LabelAdversary(Hard):
    """HARD's machinery under a label-based objective.

    Args:
        teacher, student: the networks.
        transform: what may be done to an image; none that mixes two, which have no one label.
        policy: makes a policy for the transform's spec; None: `Generator`.
        temperature: of the distillation.
        weight, non_saturating: of the objective, see `LabelConflict`.
        every, fraction, steps: of the ascents, see `Alternating`.
        spread_weight, spread_floor, uniform_floor, learning_rate: see `HardAugmenter`.
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
        spread_weight: float = 0.08,
        spread_floor: float | None = 0.15,
        uniform_floor: float = 0.0,
        learning_rate: float | None = None,
        seed: int = 0,
    ) -> None:
        augmenter = HardAugmenter(
            teacher=teacher,
            student=student,
            transform=transform,
            policy=(Generator if policy is None else policy)(transform.spec),
            objective=LabelConflict(weight=weight, non_saturating=non_saturating),
            invariance=Penalty(0.0),  # the label is what the teacher is to keep
            schedule=Alternating(every=every, fraction=fraction, steps=steps),
            spread_weight=spread_weight,
            spread_floor=spread_floor,
            uniform_floor=uniform_floor,
            learning_rate=learning_rate,
            seed=seed,
        )
        super().__init__(augmenter, temperature=temperature)
