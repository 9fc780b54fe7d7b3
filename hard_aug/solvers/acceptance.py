"""Acceptance: is an image that a search found still of its class, once it is a file?

An adversarial pattern may live on what eight bits or another size take away. So an image is kept only if, rounded to
eight bits, the teacher's top class is the label and still is after a resize, and an independent judge's too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug.models.guard import evaluation_mode


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, rounded to the nearest."""
    return (255 * images).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of images.

    Attributes:
        accepted: `(B,)` bool, all rules are kept.
        soft_labels: `(B, K)` float32, the teacher's probabilities of the rounded images.
        rules: `(B,)` bool by rule, which images keep it: `teacher`, `confidence`, `teacher_resized`, `judge`,
            `judge_resized`; those that were asked for.
    """

    accepted: Tensor
    soft_labels: Tensor
    rules: dict[str, Tensor]

    def rejected(self) -> dict[str, int]:
        """How many images broke each rule; one may break several."""
        return {name: int((~kept).sum()) for name, kept in self.rules.items()}


class Acceptance:
    """The rule, and the teacher's answer to what a file will hold.

    Args:
        teacher: its top class has to be the label.
        judge: another network's too, with the same classes, which took no part in the search; None: none.
        resize: the share that images are shrunk to and enlarged from before both are asked again, in (0, 1]; None: they
            are not.
        confidence: the least probability of the label that the teacher gives the rounded image, in [0, 1).

    Raises:
        ValueError: names the setting.
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        judge: nn.Module | None = None,
        resize: float | None = 0.75,
        confidence: float = 0.0,
    ) -> None:
        if resize is not None and not 0 < resize <= 1:
            raise ValueError(f"resize={resize}: wanted a share in (0, 1], or None")
        if not 0 <= confidence < 1:
            raise ValueError(f"confidence={confidence}: wanted a probability in [0, 1)")
        self.teacher, self.judge, self.resize, self.confidence = teacher, judge, resize, confidence

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> Verdict:
        """Judge images as a file would hold them.

        Args:
            images: `(B, C, H, W)` uint8, see `to_bytes`.
            labels: `(B,)`.
        """
        shown, labels = images.float() / 255, labels.long()
        models = [self.teacher] if self.judge is None else [self.teacher, self.judge]
        with evaluation_mode(*models), torch.autocast(shown.device.type, enabled=False):
            soft = self.teacher(shown).float().softmax(1)
            rules = {"teacher": soft.argmax(1) == labels}
            if self.confidence:
                rules["confidence"] = soft.gather(1, labels[:, None])[:, 0] >= self.confidence
            views = {"": shown}
            if self.resize is not None:
                views["_resized"] = self._resized(shown, self.resize) if len(images) else shown
                rules["teacher_resized"] = self.teacher(views["_resized"]).argmax(1) == labels
            if self.judge is not None:
                rules |= {f"judge{name}": self.judge(view).argmax(1) == labels for name, view in views.items()}
        return Verdict(torch.stack(tuple(rules.values())).all(0), soft, rules)

    @staticmethod
    def _resized(images: Tensor, share: float) -> Tensor:
        small = [max(1, round(share * side)) for side in images.shape[-2:]]
        smaller = F.interpolate(images, size=small, mode="bilinear", antialias=True)
        return F.interpolate(smaller, size=images.shape[-2:], mode="bilinear", antialias=True)
