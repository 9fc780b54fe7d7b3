"""Results of a diagnosis: numbers per parameter, and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hard_aug.utils.text_table import aligned

#: Transfer gap, beyond the student's disagreement on clean images, from which on a parameter counts as missing.
MIN_GAP = 0.05
#: Transfer gap and number of images below which no fraction of the gap is given.
MIN_BASE, MIN_IMAGES = 0.02, 20
#: Agreement on clean images below which the transfer gap says nothing of invariances: the student is not trained yet.
MIN_AGREEMENT = 0.5


@dataclass(frozen=True, slots=True)
class ParameterDiagnosis:
    """The predictions of both networks over the range of one parameter, or of a large block of parameters together.

    All fractions are of all images. The student is compared with the teacher and not with itself: an image counts for
    it if the teacher's prediction is unchanged and the student predicts that class, whatever it predicts for the clean
    image. The rest of the teacher's images is what there is to transfer.

    Attributes:
        name: Name of the parameter or the block.
        unit: Unit of `values`.
        fractions: Positions in the range, in [-1, 1]; 0 is the identity.
        values: Physical values at these positions (for a block: `fractions`).
        teacher_consistency: Fraction of images on which the teacher predicts what it predicts for the clean image, at
            each value.
        student_agreement: Fraction of images on which it does and the student predicts the same.
        teacher_divergence: Mean KL divergence of the teacher's predictions from those on the clean images, nats.
        student_divergence: Mean KL divergence of the student's predictions from the teacher's on the clean images,
            nats.

    Example:
        >>> from hard_aug.diagnosis import ParameterDiagnosis
        >>> zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        >>> row = ParameterDiagnosis("shear", "tangent", (-1.0, 0.0, 1.0), (-0.4, 0.0, 0.4), ones, (0.0, 1.0, 0.0),
        ...     zeros, zeros)
        >>> row.transfer_gap
        0.5
        >>> row.consistent_range(row.teacher_consistency, threshold=0.9)
        (-0.4, 0.4)
    """

    name: str
    unit: str
    fractions: tuple[float, ...]
    values: tuple[float, ...]
    teacher_consistency: tuple[float, ...]
    student_agreement: tuple[float, ...]
    teacher_divergence: tuple[float, ...]
    student_divergence: tuple[float, ...]

    @property
    def transfer_gap(self) -> float:
        """Mean over the range of `teacher_consistency - student_agreement`; in [0, 1]."""
        return self.teacher_mean - self.student_mean

    @property
    def teacher_mean(self) -> float:
        """Mean of `teacher_consistency` over the range."""
        return self._mean(self.teacher_consistency)

    @property
    def student_mean(self) -> float:
        """Mean of `student_agreement` over the range."""
        return self._mean(self.student_agreement)

    @property
    def identity(self) -> int:
        """Index of the identity in `values`."""
        return min(range(len(self.fractions)), key=lambda index: abs(self.fractions[index]))

    def consistent_range(self, consistency: Sequence[float], threshold: float) -> tuple[float, float]:
        """Return the values around the identity between which a fraction is at least `threshold` of that there.

        Args:
            consistency: `teacher_consistency` or `student_agreement`; interpolated linearly.
            threshold: Smallest part of the fraction at the identity, in (0, 1).
        """
        least = threshold * consistency[self.identity]
        ends = []
        for step in (-1, 1):
            index = self.identity
            while 0 <= index + step < len(consistency) and consistency[index + step] >= least > 0:
                index += step
            end = self.values[index]
            if 0 <= index + step < len(consistency) and least > 0:
                inner, outer = consistency[index], consistency[index + step]
                end += (inner - least) / (inner - outer) * (self.values[index + step] - end)
            ends.append(end)
        return ends[0], ends[1]

    def _mean(self, heights: Sequence[float]) -> float:
        area = torch.trapezoid(
            *(torch.tensor(values, dtype=torch.float64, device="cpu") for values in (heights, self.fractions))
        )
        return float(area) / (self.fractions[-1] - self.fractions[0])


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of `diagnose`; printed, it is a table and what its columns mean.

    Attributes:
        rows: One row for each parameter or large block.
        threshold: Part of the fraction at the identity that bounds the ranges in the table.
        images: Number of images that were used.

    Example:
        >>> import torch
        >>> from hard_aug import diagnose
        >>> from hard_aug.transforms import Affine
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> result = diagnose(network, network, torch.rand(4, 1, 8, 8), Affine(), values=3)
        >>> result.agreement, result.missing
        (1.0, ())
    """

    rows: tuple[ParameterDiagnosis, ...]
    threshold: float
    images: int

    @property
    def missing(self) -> tuple[str, ...]:
        """Parameters with a transfer gap at least 5 % above what the student misses on clean images, the largest first.

        On the images where the teacher's prediction is unchanged, a student that a parameter does not affect agrees as
        often as on clean images. Clean distillation is what closes that part of the gap.
        """
        above = {row.name: self.agreement * row.teacher_mean - row.student_mean for row in self.rows}
        return tuple(name for name in sorted(above, key=above.__getitem__, reverse=True) if above[name] >= MIN_GAP)

    @property
    def agreement(self) -> float:
        """Fraction of clean images, in [0, 1], on which the student's prediction is the teacher's."""
        return self.rows[0].student_agreement[self.rows[0].identity]

    def __str__(self) -> str:
        return (
            f"{self.table()}\n"
            "% of the images, mean over the range. teacher unchanged: the teacher's prediction is that for the clean\n"
            "image; student agrees: and the student's is the same; transfer gap: and the student's is another.\n"
            f"range: where at least {100 * self.threshold:.0f} % of the images at the identity are left\n"
            f"{self._conclusion()}"
        )

    def table(self) -> str:
        """Format a plain-text table: the range and the mean fraction of each network, and the transfer gap."""
        names = ("teacher range", "student range", "teacher unchanged", "student agrees")
        lines = [
            (
                row.name,
                row.unit,
                *(
                    "{:.3g} to {:.3g}".format(*row.consistent_range(consistency, self.threshold))
                    for consistency in (row.teacher_consistency, row.student_agreement)
                ),
                *(f"{100 * fraction:.0f} %" for fraction in (row.teacher_mean, row.student_mean, row.transfer_gap)),
            )
            for row in self.rows
        ]
        return aligned([("parameter", "unit", *names, "transfer gap"), *lines])

    def gap_closed(self, before: Diagnosis) -> str:
        """Format a plain-text table: the transfer gaps before and now, and the fraction of the gap that is closed.

        Where the fraction would mean nothing, the reason stands in its place: fewer than 20 images, a student that
        agreed with the teacher on less than half of the clean images before, a gap before that was below 2 % or below
        twice its standard error, or a gap that grew.

        Args:
            before: An earlier diagnosis of the same transform.

        Raises:
            ValueError: If the diagnoses have different parameters.
        """
        self.check_same_parameters(before)
        head = ("parameter", "transfer gap before", "after", "gap closed")
        lines = []
        for was, row in zip(before.rows, self.rows, strict=True):
            texts = (f"{100 * was.transfer_gap:.0f} %", f"{100 * row.transfer_gap:.0f} %")
            lines.append((row.name, *texts, before._closed(was.transfer_gap, row.transfer_gap)))
        return aligned([head, *lines])

    def check_same_parameters(self, other: Diagnosis) -> None:
        """Raise `ValueError` unless both diagnoses have the same parameters."""
        if [row.name for row in other.rows] != [row.name for row in self.rows]:
            raise ValueError("diagnoses of different transforms: the parameter names differ")

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, for JSON."""
        return {
            **asdict(self),
            "agreement": self.agreement,
            "missing": list(self.missing),
            "transfer_gap": {r.name: r.transfer_gap for r in self.rows},
        }

    def _closed(self, gap: float, after: float) -> str:
        """Return the closed fraction of a transfer gap of this diagnosis, or why there is none."""
        no_fraction = {
            f"(only {self.images} images)": self.images < MIN_IMAGES,
            f"(student agreed on {100 * self.agreement:.0f} %)": self.agreement < MIN_AGREEMENT,
            f"(gap below {100 * MIN_BASE:.0f} %)": gap < MIN_BASE,
            # Binomial, as if the gap were a fraction of the images.
            "(gap below 2 standard errors)": gap**2 < 4 * gap * (1 - gap) / self.images,
            "(gap grew)": after > gap,
        }
        return (
            next((reason for reason, holds in no_fraction.items() if holds), None) or f"{100 * (1 - after / gap):.0f} %"
        )

    def _conclusion(self) -> str:
        if self.agreement < MIN_AGREEMENT:
            return (
                f"The student agrees with the teacher on only {100 * self.agreement:.0f} % of the clean images: it is "
                "not trained enough for a diagnosis. Distil on clean images first, then diagnose again."
            )
        return (
            f"The student disagrees with the teacher on {100 * (1 - self.agreement):.0f} % of the {self.images} clean "
            "images.\n"
            + (
                f"Largest transfer gaps: {', '.join(self.missing)}."
                if self.missing
                else f"No parameter adds {100 * MIN_GAP:.0f} % to that."
            )
        )
