"""Response change: move the student's answer away from its own answer to the clean image.

With the teacher's answer kept by the invariance this is the form that asks for the response of the one to change and of
the other to stay; as such it is what we recall of HARD's objective (arXiv:2305.14890), not what we read there.
"""

from __future__ import annotations

from torch import Tensor

from hard_aug.objectives.disagreement import Reference, Tempered
from hard_aug.ops.divergence import kl_divergence


class ResponseChange(Tempered):
    """`T^2 KL(student(clean) || student(hard))`; the teacher plays no part in it.

    At the identity it is 0 with gradient 0, so a policy that starts there never moves: ours start with spread.

    Args:
        temperature: `T`, above 0.
    """

    is_divergence = False  # on clean images it is always 0, which no multiple exceeds
    wants_student_reference = True

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        if reference is None or reference.student_logits is None:
            raise ValueError(
                "ResponseChange compares with the student's answer to the clean images; pass "
                "reference=Reference(teacher_logits, student_logits=...)"
            )
        return kl_divergence(
            teacher_logits=reference.student_logits.detach(),
            student_logits=student_logits,
            temperature=self.temperature,
        )
