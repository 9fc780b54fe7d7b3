"""Confidence: the teacher sure of the right class, the student not (after ConfiG, arXiv:2506.02294).

With `t` and `s` the two players' probabilities of the right class y:

| class | formula |
|---|---|
| `ConfidenceGap` | `t^gamma + (1 - s)^gamma`, in [0, 2]; with `towards`, `t^gamma + s_w^gamma` of one wrong class w |
| `ConfidenceRatio` | `log t - log s` |
| `ConfidenceMargin` | `m(teacher) - m(student)`, `m(z) = z_y - max over k != y of z_k` |

A power above 1 rewards the samples on which the players differ already and pushes least where the student is sure;
the ratio and the margin do not saturate. What y is says `target`: "label", the labels given to the call, or
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

Target = Literal["label", "teacher"]


class _Confidence(Disagreement):
    wants_one_class = True

    def __init__(self, *, target: Target = "label") -> None:
        if target not in ("label", "teacher"):
            raise ValueError(f"target={target!r}: wanted 'label' or 'teacher'")
        self.target = target
        self.wants_labels = target == "label"

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor, reference: Reference | None = None) -> Tensor:
        teacher, student = same_type(teacher_logits, student_logits)
        return self._score(teacher, student, self._right_class(reference, teacher.shape[-1])[:, None])

    def _right_class(self, reference: Reference | None, classes: int) -> Tensor:
        name = type(self).__name__
        if self.target == "teacher":
            if reference is None:
                raise ValueError(f"{name}(target='teacher') wants reference=Reference(teacher_logits=...)")
            return reference.teacher_logits.argmax(-1)
        if reference is None or reference.labels is None:
            raise ValueError(
                f"{name} wants labels: call augmenter(images, labels), or take the teacher's answer for them with "
                f"{name}(target='teacher')"
            )
        # Checked where they come in; on a GPU an index outside would end the process.
        return reference.labels.long().clamp(0, classes - 1)

    @abstractmethod
    def _score(self, teacher: Tensor, student: Tensor, right: Tensor) -> Tensor:
        """`(B,)` from logits `(B, K)` of at least float32 and the class `(B, 1)`."""


class ConfidenceGap(_Confidence):
    """`t^gamma + (1 - s)^gamma`.

    Args:
        gamma: the power, at least 1.
        start: the power at the start of a search, which moves to `gamma` in equal steps: a search that begins where the
            student is sure gets a gradient there. None: `gamma` from the start. Searches of `hard_aug.solvers` anneal;
            `HardAugmenter` uses `gamma` throughout.
        target: what the right class is.
        towards: the student is to be sure of the class that comes so many after the right one, modulo K; at least 1.
            Away from the right class alone, searches end at the nearest wrong one; those towards each of
            1, ..., K - 1 find what every class is taken for. None: away.

    Raises:
        ValueError: names the setting; at a call, `towards` that is a multiple of K.
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
        if towards is not None and not (isinstance(towards, int) and towards >= 1):
            raise ValueError(f"towards={towards}: wanted a whole number of at least 1, or None")
        for name, power in (("gamma", gamma), ("start", gamma if start is None else start)):
            if not (power >= 1 and math.isfinite(power)):
                raise ValueError(f"{name}={power}: wanted a number of at least 1")
        self.gamma = float(gamma)
        self.start = None if start is None else float(start)
        self.towards = towards

    def at(self, progress: float) -> ConfidenceGap:
        if self.start is None or progress >= 1:
            return self
        gamma = self.start + (self.gamma - self.start) * max(0.0, progress)
        return ConfidenceGap(gamma, target=self.target, towards=self.towards)

    def _score(self, teacher: Tensor, student: Tensor, right: Tensor) -> Tensor:
        sure = teacher.softmax(-1).gather(-1, right).squeeze(-1)
        if self.towards is None:
            unsure = _others(student.softmax(-1), right, fill=0.0).sum(-1)  # 1 - s without its rounding
        else:
            classes = student.shape[-1]
            if self.towards % classes == 0:
                raise ValueError(f"towards={self.towards} of {classes} classes is the right one; wanted another")
            unsure = student.softmax(-1).gather(-1, (right + self.towards) % classes).squeeze(-1)
        return sure**self.gamma + unsure**self.gamma


class ConfidenceRatio(_Confidence):
    """`log t - log s`, in nats, unbounded.

    Args:
        target: what the right class is.
    """

    def _score(self, teacher: Tensor, student: Tensor, right: Tensor) -> Tensor:
        return (teacher.log_softmax(-1) - student.log_softmax(-1)).gather(-1, right).squeeze(-1)


class ConfidenceMargin(_Confidence):
    """The teacher's margin of the right class less the student's, in units of logits, unbounded.

    Args:
        target: what the right class is.
    """

    def _score(self, teacher: Tensor, student: Tensor, right: Tensor) -> Tensor:
        return _margin(teacher, right) - _margin(student, right)


def _margin(logits: Tensor, right: Tensor) -> Tensor:
    return logits.gather(-1, right).squeeze(-1) - _others(logits, right, fill=-math.inf).amax(-1)


def _others(values: Tensor, right: Tensor, *, fill: float) -> Tensor:
    """`values`, `(B, K)`, with the right class replaced."""
    return values.masked_fill(torch.zeros_like(values, dtype=torch.bool).scatter(-1, right, True), fill)
