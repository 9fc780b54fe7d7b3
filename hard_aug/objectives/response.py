"""Response change: move the student's prediction away from its own prediction on the clean image.

The invariance keeps the teacher's response, and this objective changes the student's. We recall it as HARD's objective
(arXiv:2305.14890); it has not been checked against the paper.
"""

from __future__ import annotations

from torch import Tensor

from hard_aug.objectives.disagreement import Reference, Tempered
from hard_aug.ops.divergence import kl_divergence


class ResponseChange(Tempered):
    """`T^2 KL(student(clean) || student(hard))`; does not depend on the teacher.

    At the identity both its value and its gradient are 0, so a policy that starts as a point there never moves. The
    policies of this library start with a positive standard deviation.

    Args:
        temperature: `T`, above 0.

    Example:
        >>> import torch
        >>> from hard_aug.objectives import Reference, ResponseChange
        >>> clean, hard = torch.zeros(2, 3), torch.zeros(2, 3)
        >>> ResponseChange()(teacher_logits=hard, student_logits=hard, reference=Reference(clean, student_logits=clean))
        tensor([0., 0.])
    """

    is_divergence = False  # always 0 on clean images, so a threshold relative to that value is never exceeded
    requires_student_reference = True

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        """See `Disagreement.__call__`; requires `reference.student_logits`."""
        if reference is None or reference.student_logits is None:
            raise ValueError(
                "ResponseChange requires the student's logits on the clean images; pass "
                "reference=Reference(teacher_logits, student_logits=...)"
            )
        return kl_divergence(
            teacher_logits=reference.student_logits.detach(),
            student_logits=student_logits,
            temperature=self.temperature,
        )
