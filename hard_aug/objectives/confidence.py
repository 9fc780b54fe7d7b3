"""Confidence objectives: the teacher is confident in the correct class, the student is not.

After ConfiG, arXiv:2506.02294. With `t` and `s` the two networks' probabilities of the correct class y:

| class | formula |
|---|---|
| `ConfidenceGap` | `t^gamma + (1 - s)^gamma`, in [0, 2]; with `towards`, `t^gamma + s_w^gamma` for one wrong class w |
| `ConfidenceRatio` | `log t - log s` |
| `ConfidenceMargin` | `m(teacher) - m(student)`, `m(z) = z_y - max over k != y of z_k` |

A power above 1 has the largest gradient on samples where the networks already differ and the smallest where the student
is confident; the ratio and the margin do not saturate. `target` selects y: "label", the labels given to the call, or
"teacher", the teacher's top class on the clean image.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from hard_aug.objectives.disagreement import Disagreement, Reference
from hard_aug.ops.divergence.reference import same_type
from hard_aug.utils.checks import check_integer, is_number

Target = Literal["label", "teacher"]


class _Confidence(Disagreement):
    """Base class: looks up the correct class.

    Args:
        target: Which class is the correct one: "label" or "teacher".
    """

    requires_one_class = True

    def __init__(self, *, target: Target = "label") -> None:
        if target not in ("label", "teacher"):
            raise ValueError(f"target={target!r}: expected 'label' or 'teacher'")
        self.target = target
        self.requires_labels = target == "label"

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        """See `Disagreement.__call__`."""
        teacher, student = same_type(teacher_logits, student_logits)
        return self._score(teacher, student, self._correct_class(reference, teacher.shape[-1])[:, None])

    def _correct_class(self, reference: Reference | None, classes: int) -> Tensor:
        name = type(self).__name__
        if self.target == "teacher":
            if reference is None:
                raise ValueError(f"{name}(target='teacher') requires reference=Reference(teacher_logits=...)")
            return reference.teacher_logits.argmax(-1)
        if reference is None or reference.labels is None:
            raise ValueError(
                f"{name} requires labels: call augmenter(images, labels), or use the teacher's prediction instead with "
                f"{name}(target='teacher')"
            )
        # The augmenter checks labels at entry; on a GPU an index out of range would end the process.
        return reference.labels.long().clamp(0, classes - 1)

    @abstractmethod
    def _score(self, teacher: Tensor, student: Tensor, correct: Tensor) -> Tensor:
        """Compute the score `(B,)` from logits `(B, K)`, at least float32, and the correct class `(B, 1)`."""


class ConfidenceGap(_Confidence):
    """`t^gamma + (1 - s)^gamma`: the teacher's confidence in the correct class and the student's lack of it.

    Args:
        gamma: Exponent, at least 1.
        start: Exponent at the start of a search, which moves linearly to `gamma`: a search that begins where the
            student is confident then has a gradient there. None: `gamma` from the start. The searches of
            `hard_aug.synthesis` anneal; `HardAugmenter` uses `gamma` throughout.
        target: Which class is the correct one: "label" or "teacher".
        towards: Offset of a wrong class, at least 1: the score grows with the student's probability of the class that
            many places after the correct one, modulo K. Without it, searches end at the nearest wrong class; with
            1, ..., K - 1 in turn they find what makes the student predict each of them. None: any wrong class.

    Raises:
        ValueError: If a setting is out of range; at a call, if `towards` is a multiple of K.

    Example:
        >>> import torch
        >>> from hard_aug.objectives import ConfidenceGap, Reference
        >>> teacher, student = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 100.0]])
        >>> reference = Reference(teacher, labels=torch.tensor([0]))
        >>> ConfidenceGap()(teacher_logits=teacher, student_logits=student, reference=reference)
        tensor([2.])
    """

    def __init__(
        self,
        gamma: float = 1.0,
        *,
        start: float | None = None,
        target: Target = "label",
        towards: int | None = None,
    ) -> None:
        super().__init__(target=target)
        check_integer(towards=towards)
        for name, power in (("gamma", gamma), ("start", gamma if start is None else start)):
            if not (is_number(power) and power >= 1 and math.isfinite(power)):
                raise ValueError(f"{name}={power}: expected a number >= 1")
        self.gamma = float(gamma)
        self.start = None if start is None else float(start)
        self.towards = None if towards is None else int(towards)

    def at(self, progress: float) -> ConfidenceGap:
        """See `Disagreement.at`; the exponent moves from `start` to `gamma`."""
        if self.start is None or progress >= 1:
            return self
        gamma = self.start + (self.gamma - self.start) * max(0.0, progress)
        return ConfidenceGap(gamma, target=self.target, towards=self.towards)

    def _score(self, teacher: Tensor, student: Tensor, correct: Tensor) -> Tensor:
        confident = teacher.softmax(-1).gather(-1, correct).squeeze(-1)
        if self.towards is None:
            doubt = _others(student.softmax(-1), correct, fill=0.0).sum(-1)  # 1 - s without its rounding
        else:
            classes = student.shape[-1]
            if self.towards % classes == 0:
                raise ValueError(f"towards={self.towards} of {classes} classes is the correct class; expected another")
            doubt = student.softmax(-1).gather(-1, (correct + self.towards) % classes).squeeze(-1)
        return confident**self.gamma + doubt**self.gamma


class ConfidenceRatio(_Confidence):
    """`log t - log s`, in nats, unbounded.

    Args:
        target: Which class is the correct one: "label" or "teacher".

    Example:
        >>> import torch
        >>> from hard_aug.objectives import ConfidenceRatio, Reference
        >>> teacher, student = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
        >>> reference = Reference(teacher, labels=torch.tensor([0]))
        >>> round(float(ConfidenceRatio()(teacher_logits=teacher, student_logits=student, reference=reference)), 3)
        3.0
    """

    def _score(self, teacher: Tensor, student: Tensor, correct: Tensor) -> Tensor:
        return _difference(*(logits.log_softmax(-1).gather(-1, correct).squeeze(-1) for logits in (teacher, student)))


class ConfidenceMargin(_Confidence):
    """The teacher's margin of the correct class minus the student's, in units of logits, unbounded.

    Args:
        target: Which class is the correct one: "label" or "teacher".

    Example:
        >>> import torch
        >>> from hard_aug.objectives import ConfidenceMargin, Reference
        >>> teacher, student = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> reference = Reference(teacher, labels=torch.tensor([0]))
        >>> ConfidenceMargin()(teacher_logits=teacher, student_logits=student, reference=reference)
        tensor([4.])
    """

    def _score(self, teacher: Tensor, student: Tensor, correct: Tensor) -> Tensor:
        return _difference(_margin(teacher, correct), _margin(student, correct))


def _difference(teacher: Tensor, student: Tensor) -> Tensor:
    """Subtract `(B,)`; the difference is 0 where both are the same infinity, as in a class that both networks mask."""
    return torch.where((teacher == student) & teacher.isinf(), 0.0, teacher - student)


def _margin(logits: Tensor, correct: Tensor) -> Tensor:
    return logits.gather(-1, correct).squeeze(-1) - _others(logits, correct, fill=-math.inf).amax(-1)


def _others(values: Tensor, correct: Tensor, *, fill: float) -> Tensor:
    """Replace the correct class of `values`, `(B, K)`, by `fill`."""
    return values.masked_fill(torch.zeros_like(values, dtype=torch.bool).scatter(-1, correct, True), fill)
