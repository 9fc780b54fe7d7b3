"""Disagreement of teacher and student per sample, which the augmenter maximises.

It is differentiable in the logits of both networks.

| class | formula | source |
|---|---|---|
| `KL` | `T^2 KL(t, s)`, the distillation loss | Hinton et al., arXiv:1503.02531 |
| `ReverseKL` | `T^2 KL(s, t)` | |
| `JensenShannon` | `T^2 (KL(t, m) + KL(s, m)) / 2`, `m = (t + s) / 2` | Lin, 1991 |
| `LogitMSE` | mean over classes of the squared difference of logits | Kim et al., arXiv:2105.08919 |
| `DecisionMaskedKL` | `KL` where the student's top class is still the teacher's, else 0 | |

`t` and `s` are the softmax of the logits over T, and `KL(p, q) = sum p log(p / q)`, in nats. `response.py` and
`confidence.py` define further objectives.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from hard_aug.ops.divergence import kl_divergence, kl_of_log_probabilities
from hard_aug.ops.divergence.reference import log_add, log_probabilities, same_type
from hard_aug.utils.checks import check_positive_number
from hard_aug.utils.settings_repr import SettingsRepr

#: Logits that are lower than the largest one by more than this are masks: -inf, -1e9, -1e4, the end of the type.
MASK_DEPTH = 5e3


@dataclass(frozen=True, slots=True)
class Reference:
    """Predictions on the clean images and labels, which an objective may use besides the logits on the hard images.

    Attributes:
        teacher_logits: `(B, K)`, on the clean images (for mixed images, of both; see `Transform.reference`).
        student_logits: `(B, K)`, on the clean images, for objectives that require them.
        labels: Integers `(B,)`, for objectives that require them.

    Example:
        >>> import torch
        >>> from hard_aug.objectives import Reference
        >>> reference = Reference(torch.zeros(4, 3), labels=torch.tensor([0, 2, 1, 0]))
        >>> reference.first(2).labels
        tensor([0, 2])
    """

    teacher_logits: Tensor
    student_logits: Tensor | None = None
    labels: Tensor | None = None

    def first(self, count: int) -> Reference:
        """Slice to the first `count` images."""
        others = (None if part is None else part[:count] for part in (self.student_logits, self.labels))
        return Reference(self.teacher_logits[:count], *others)


class Disagreement(SettingsRepr, ABC):
    """A score `(B,)` of the two networks' logits; the higher it is, the more they disagree.

    Example:
        >>> import torch
        >>> from hard_aug.objectives import Disagreement
        >>> class TotalVariation(Disagreement):
        ...     is_divergence = True
        ...
        ...     def __call__(self, *, teacher_logits, student_logits, reference=None):
        ...         difference = teacher_logits.float().softmax(1) - student_logits.float().softmax(1)
        ...         return difference.abs().sum(1) / 2
        >>> teacher, student = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 100.0]])
        >>> TotalVariation()(teacher_logits=teacher, student_logits=student)
        tensor([1.])
    """

    #: Whether it is at least 0 and grows with the difference of the networks, as `Threshold` requires.
    is_divergence: bool = False
    #: Whether it requires `Reference.student_logits`.
    requires_student_reference: bool = False
    #: Whether it requires `Reference.labels`.
    requires_labels: bool = False
    #: Whether it requires one correct class, which a mix of two images does not have.
    requires_one_class: bool = False

    @abstractmethod
    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        """Compute the score.

        Args:
            teacher_logits: `(B, K)`, on the hard images.
            student_logits: `(B, K)`, on the hard images.
            reference: Predictions on the clean images and labels, for objectives that require them.

        Returns:
            `(B,)`, at least float32.
        """

    def at(self, progress: float) -> Disagreement:
        """Return the objective at the fraction `progress`, in [0, 1], of a search; by default `self` throughout."""
        return self


class Tempered(Disagreement):
    """A divergence of the softmax at a temperature.

    Args:
        temperature: `T`, above 0.
    """

    is_divergence = True

    def __init__(self, temperature: float = 2.0) -> None:
        check_positive_number(temperature=temperature)
        self.temperature = float(temperature)


class KL(Tempered):
    """`T^2 KL(teacher || student)`, the distillation loss itself.

    Args:
        temperature: `T`, above 0; also the default temperature of `HardBatch.loss`.

    Example:
        >>> import torch
        >>> from hard_aug.objectives import KL
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> KL(temperature=1.0)(teacher_logits=logits, student_logits=logits)
        tensor([0., 0.])
    """

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        """See `Disagreement.__call__`."""
        return kl_divergence(teacher_logits=teacher_logits, student_logits=student_logits, temperature=self.temperature)


class ReverseKL(Tempered):
    """`T^2 KL(student || teacher)`: large where the student is confident in a class that the teacher rules out.

    Args:
        temperature: `T`, above 0.

    Example:
        >>> import torch
        >>> from hard_aug.objectives import ReverseKL
        >>> ReverseKL()(teacher_logits=torch.zeros(3, 5), student_logits=torch.randn(3, 5)).shape
        torch.Size([3])
    """

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        """See `Disagreement.__call__`."""
        return kl_divergence(teacher_logits=student_logits, student_logits=teacher_logits, temperature=self.temperature)


class JensenShannon(Tempered):
    """`T^2` times the Jensen-Shannon divergence, which is symmetric and at most `T^2 log 2`.

    Args:
        temperature: `T`, above 0.

    Example:
        >>> import torch
        >>> from hard_aug.objectives import JensenShannon
        >>> teacher, student = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 100.0]])
        >>> round(float(JensenShannon(temperature=1.0)(teacher_logits=teacher, student_logits=student)), 3)  # log 2
        0.693
    """

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        """See `Disagreement.__call__`."""
        both = same_type(teacher_logits, student_logits)
        teacher, student = (log_probabilities(logits, self.temperature) for logits in both)
        middle = log_add(teacher, student) - math.log(2)
        return (
            self.temperature**2
            * 0.5
            * (kl_of_log_probabilities(teacher, middle) + kl_of_log_probabilities(student, middle))
        )


class LogitMSE(Disagreement):
    """Mean over the classes of the squared difference of the logits.

    Classes that both networks mask, by logits more than 5000 below their largest ones, are left out of the mean. (It
    compares the logits themselves, so a class that only one of them masks outweighs all others.)

    Example:
        >>> import torch
        >>> from hard_aug.objectives import LogitMSE
        >>> LogitMSE()(teacher_logits=torch.zeros(2, 4), student_logits=torch.full((2, 4), 3.0))
        tensor([9., 9.])
    """

    is_divergence = True

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        """See `Disagreement.__call__`."""
        teacher, student = same_type(teacher_logits, student_logits)
        masked = _is_masked(teacher) & _is_masked(student)
        squares = (teacher - student).masked_fill(masked, 0.0).square()
        return squares.mean(-1) * (masked.shape[-1] / (~masked).sum(-1, dtype=squares.dtype))


class DecisionMaskedKL(Tempered):
    """`KL` on the samples where the student's top class is the teacher's, 0 on the others.

    Its gradient acts only where the student still agrees, not on samples that it already classifies differently.

    Args:
        temperature: `T`, above 0.

    Example:
        >>> import torch
        >>> from hard_aug.objectives import DecisionMaskedKL
        >>> teacher, student = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 5.0]])
        >>> DecisionMaskedKL()(teacher_logits=teacher, student_logits=student)
        tensor([0.])
    """

    is_divergence = False  # it is zero where the networks disagree most

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        """See `Disagreement.__call__`."""
        return kl_divergence(
            teacher_logits=teacher_logits,
            student_logits=student_logits,
            temperature=self.temperature,
            mask=teacher_logits.argmax(-1) == student_logits.argmax(-1),
        )


def _is_masked(logits: Tensor) -> Tensor:
    return logits < logits.detach().amax(-1, keepdim=True) - MASK_DEPTH
