"""NFE: number of function evaluations, the compute at which methods are compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(slots=True)
class NFE:
    """Number of function evaluations: passes of one image through one network.

    With classifier-free guidance a denoiser counts twice (conditional and unconditional). Teacher and student are both
    classifiers and are counted separately.

    Attributes:
        denoiser_forward: forward passes of the denoiser.
        denoiser_backward: backward passes of the denoiser.
        codec_forward: passes of the autoencoder's encoder and decoder.
        codec_backward: backward passes of the decoder.
        classifier_forward: forward passes of the teacher and the student.
        classifier_backward: backward passes of the teacher and the student.

    Example:
        >>> unguided = NFE(denoiser_forward=10, codec_forward=1)
        >>> (unguided + NFE(classifier_forward=2, classifier_backward=2)).total
        17
    """

    denoiser_forward: int = 0
    denoiser_backward: int = 0
    codec_forward: int = 0
    codec_backward: int = 0
    classifier_forward: int = 0
    classifier_backward: int = 0

    @property
    def total(self) -> int:
        """Sum of all counts, where a backward pass counts twice; baselines are compared at equal totals."""
        forward = self.denoiser_forward + self.codec_forward + self.classifier_forward
        return forward + 2 * (self.denoiser_backward + self.codec_backward + self.classifier_backward)

    def __add__(self, other: NFE) -> NFE:
        return NFE(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: NFE) -> NFE:
        return NFE(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name, and their `total`."""
        return {**asdict(self), "total": self.total}
