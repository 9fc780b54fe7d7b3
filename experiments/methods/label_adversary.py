"""The objective of a label-based adversary, which does not compare a teacher with a student.

In TeachAugment (Suzuki, arXiv:2203.00282) the augmenter maximises the student's cross-entropy with the label while a
teacher, there a moving average of the student, still recognises the label; TST (IJCAI 2023) uses such an adversary for
distillation. The method `label_adversary` is `hard` with this objective in place of objective and invariance term, and
the same settings of all else, so that a comparison is one of these two.

| | maximised | preserved |
|---|---|---|
| HARD | `KL(teacher, student)` | the teacher's prediction |
| here | `-log s` or `log(1 - s)`, `s` the student's probability of the label | `-log t`, `t` the teacher's |
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from hard_aug.objectives import Disagreement, Reference
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
        labels, student_logits = reference.labels.long(), student_logits.float()
        if self.non_saturating:
            gain = student_logits.log_softmax(1).scatter(1, labels[:, None], -math.inf).logsumexp(1)  # of the others
        else:
            gain = F.cross_entropy(student_logits, labels, reduction="none")
        return gain - self.weight * F.cross_entropy(teacher_logits.float(), labels, reduction="none")
