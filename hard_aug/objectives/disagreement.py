"""Disagreement: what the augmenter maximises. Per sample, and differentiable in both players' logits.

| class | formula | source |
|---|---|---|
| `KL` | `T^2 KL(t, s)`, the distillation loss | Hinton et al., arXiv:1503.02531 |
| `ReverseKL` | `T^2 KL(s, t)` | |
| `JensenShannon` | `T^2 (KL(t, m) + KL(s, m)) / 2`, `m = (t + s) / 2` | Lin, 1991 |
| `LogitMSE` | mean over classes of the squared difference of logits | Kim et al., arXiv:2105.08919 |
| `DecisionMaskedKL` | `KL` where the student's top class is still the teacher's, else 0 | |

`t` and `s` are the softmax of the logits over T, and `KL(p, q) = sum p log(p / q)`, in nats. Further ones are in
`response.py` and `confidence.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hard_aug.ops.divergence import check_temperature, kl_divergence, kl_of_log_probabilities
from hard_aug.ops.divergence.reference import same_type


@dataclass(frozen=True, slots=True)
class Reference:
    """What else an objective may look at.

    Attributes:
        teacher_logits: `(B, K)`, on the clean images (for a mix, of both; see `Transform.reference`).
        student_logits: `(B, K)`, on the clean images, for objectives that name them.
        labels: `(B,)` integers, for objectives that name them.
    """

    teacher_logits: Tensor
    student_logits: Tensor | None = None
    labels: Tensor | None = None

    def first(self, count: int) -> Reference:
        """That of the first `count` images."""
        others = (None if part is None else part[:count] for part in (self.student_logits, self.labels))
        return Reference(self.teacher_logits[:count], *others)


class Disagreement(ABC):
    """A score `(B,)` of the two players' logits, the higher the more they disagree."""

    #: Whether the student's part of it is the outer distillation loss on the hard view, as `Joint` needs.
    is_distillation_loss: bool = False
    #: Whether it is at least 0 and grows with the difference of the players, as `Threshold` needs.
    is_divergence: bool = False
    #: Whether it looks at `Reference.student_logits`.
    wants_student_reference: bool = False
    #: Whether it looks at `Reference.labels`.
    wants_labels: bool = False
    #: Whether it asks for one right class, which a mix of two images has not.
    wants_one_class: bool = False

    @abstractmethod
    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        """`(B,)`, at least float32, from two `(B, K)` on the hard images."""

    def at(self, progress: float) -> Disagreement:
        """What a search ascends when the share `progress`, in [0, 1], of it is over; most stay as they are."""
        return self


class Tempered(Disagreement):
    """A divergence of the softmax at a temperature.

    Args:
        temperature: `T`, above 0.
    """

    is_divergence = True

    def __init__(self, temperature: float = 2.0) -> None:
        check_temperature(temperature)
        self.temperature = float(temperature)


class KL(Tempered):
    """`T^2 KL(teacher || student)`, the distillation loss itself.

    Args:
        temperature: `T`, above 0; also the default temperature of `HardBatch.loss`.
    """

    is_distillation_loss = True

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        return kl_divergence(teacher_logits=teacher_logits, student_logits=student_logits, temperature=self.temperature)


class ReverseKL(Tempered):
    """`T^2 KL(student || teacher)`: large where the student is sure of what the teacher rules out.

    Args:
        temperature: `T`, above 0.
    """

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        return kl_divergence(teacher_logits=student_logits, student_logits=teacher_logits, temperature=self.temperature)


class JensenShannon(Tempered):
    """`T^2` times the Jensen-Shannon divergence, symmetric and at most `T^2 log 2`.

    Args:
        temperature: `T`, above 0.
    """

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        teacher, student = _log_probabilities(teacher_logits, student_logits, self.temperature)
        middle = torch.logaddexp(teacher, student) - math.log(2)
        return (
            self.temperature**2
            * 0.5
            * (kl_of_log_probabilities(teacher, middle) + kl_of_log_probabilities(student, middle))
        )


class LogitMSE(Disagreement):
    """Mean over the classes of the squared difference of the logits."""

    is_divergence = True

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        teacher, student = same_type(teacher_logits, student_logits)
        return (teacher - student).square().mean(-1)


class DecisionMaskedKL(Tempered):
    """`KL` on the samples where the student's top class is the teacher's, 0 on the others.

    It pushes only where the student still agrees, and spends nothing on samples that are lost already.

    Args:
        temperature: `T`, above 0.
    """

    is_divergence = False  # it falls to zero once the students disagree

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        divergence = kl_divergence(
            teacher_logits=teacher_logits, student_logits=student_logits, temperature=self.temperature
        )
        return divergence * (teacher_logits.argmax(-1) == student_logits.argmax(-1))


def _log_probabilities(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    teacher, student = same_type(teacher_logits, student_logits)
    return F.log_softmax(teacher / temperature, dim=-1), F.log_softmax(student / temperature, dim=-1)
