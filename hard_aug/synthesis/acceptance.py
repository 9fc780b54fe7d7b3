"""Acceptance: test whether an image found by a search still shows its class once it is stored as a file.

An adversarial pattern may disappear by rounding to eight bits or by resizing. So an image is accepted only if, after
rounding to eight bits, the teacher's top class is the label, and still is after a resize; likewise for an independent
judge, if there is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug.models.network import Network
from hard_aug.utils.checks import check_fraction
from hard_aug.utils.settings_repr import SettingsRepr


def to_bytes(images: Tensor) -> Tensor:
    """Convert images in [0, 1] to uint8, rounded to the nearest integer."""
    return (255 * images).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, slots=True, repr=False)
class AcceptanceResult:
    """Result of `Acceptance`.

    Attributes:
        accepted: `(B,)` bool, the image satisfies all rules.
        soft_labels: `(B, K)` float32, the teacher's probabilities for the rounded images.
        rules: `(B,)` bool for each rule that was checked: `teacher`, `confidence`, `teacher_resized`, `judge`,
            `judge_resized`.

    Example:
        >>> accepted = torch.tensor([True, False])
        >>> result = AcceptanceResult(accepted, soft_labels=torch.eye(2), rules={"teacher": accepted})
        >>> result
        AcceptanceResult(accepted 1 of 2, rejected={'teacher': 1})
    """

    accepted: Tensor
    soft_labels: Tensor
    rules: dict[str, Tensor]

    def rejected(self) -> dict[str, int]:
        """Count the images that violate each rule; an image may violate several."""
        return {name: int((~satisfied).sum()) for name, satisfied in self.rules.items()}

    def __repr__(self) -> str:
        accepted, count = int(self.accepted.sum()), len(self.accepted)
        return f"AcceptanceResult(accepted {accepted} of {count}, rejected={self.rejected()})"


class Acceptance(SettingsRepr):
    """Accepts images whose class the teacher, and optionally a judge, still recognises in the stored file.

    Args:
        teacher: network from images in [0, 1] to logits; its top class must be the label.
        judge: another network with the same classes, which took no part in the search and must agree too; None: none.
        resize: fraction by which images are shrunk, and enlarged again, before both networks are evaluated once more,
            in (0, 1]; None: no resize.
        confidence: minimum probability of the label that the teacher gives the rounded image, in [0, 1).

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> acceptance = Acceptance(teacher, resize=0.5)
        >>> acceptance
        Acceptance(teacher=Sequential, judge=None, resize=0.5, confidence=0.0)
        >>> result = acceptance(to_bytes(torch.rand(3, 1, 8, 8)), torch.tensor([0, 1, 2]))
        >>> result.accepted.shape, result.soft_labels.shape, list(result.rules)
        (torch.Size([3]), torch.Size([3, 10]), ['teacher', 'teacher_resized'])
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        judge: nn.Module | None = None,
        resize: float | None = 0.75,
        confidence: float = 0.0,
    ) -> None:
        if resize is not None:
            check_fraction(resize=resize)
        if not 0 <= confidence < 1:
            raise ValueError(f"confidence={confidence}: expected a probability in [0, 1)")
        self.teacher, self.judge, self.resize, self.confidence = teacher, judge, resize, confidence
        self._teacher = Network(teacher, name="teacher")
        self._judge = None if judge is None else Network(judge, name="judge")

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> AcceptanceResult:
        """Check images as they would be stored.

        Args:
            images: `(B, C, H, W)` uint8, see `to_bytes`.
            labels: `(B,)` integers.
        """
        shown, labels = images.float() / 255, labels.long()
        with torch.autocast(shown.device.type, enabled=False):
            soft = self._teacher.evaluate(shown).float().softmax(1)
            rules = {"teacher": soft.argmax(1) == labels}
            if self.confidence:
                rules["confidence"] = soft.gather(1, labels[:, None])[:, 0] >= self.confidence
            views = {"": shown}
            if self.resize is not None:
                views["_resized"] = self._shrink_and_enlarge(shown, self.resize) if len(images) else shown
                rules["teacher_resized"] = self._teacher.evaluate(views["_resized"]).argmax(1) == labels
            if self._judge is not None:
                rules |= {
                    f"judge{name}": self._judge.evaluate(view).argmax(1) == labels for name, view in views.items()
                }
        return AcceptanceResult(torch.stack(tuple(rules.values())).all(0), soft, rules)

    @staticmethod
    def _shrink_and_enlarge(images: Tensor, fraction: float) -> Tensor:
        small = [max(1, round(fraction * side)) for side in images.shape[-2:]]
        smaller = F.interpolate(images, size=small, mode="bilinear", antialias=True)
        return F.interpolate(smaller, size=images.shape[-2:], mode="bilinear", antialias=True)
