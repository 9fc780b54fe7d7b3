"""How often the networks ran: the compute by which methods are compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(slots=True)
class Evaluations:
    """Passes of one image through one network.

    A guided denoiser counts twice (with and without its condition), and so do teacher and student together.
    """

    denoiser_forward: int = 0
    denoiser_backward: int = 0
    codec_forward: int = 0
    codec_backward: int = 0
    classifier_forward: int = 0
    classifier_backward: int = 0

    @property
    def total(self) -> int:
        """All of them, a backward as two: the equal-compute measure of the controls."""
        forward = self.denoiser_forward + self.codec_forward + self.classifier_forward
        return forward + 2 * (self.denoiser_backward + self.codec_backward + self.classifier_backward)

    def __add__(self, other: Evaluations) -> Evaluations:
        return Evaluations(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Evaluations) -> Evaluations:
        return Evaluations(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def as_dict(self) -> dict[str, int]:
        """By name, with `total`."""
        return {**asdict(self), "total": self.total}
