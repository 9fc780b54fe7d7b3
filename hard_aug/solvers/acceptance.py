"""Acceptance: is an image that a search found still of its class, once it is a file?

An adversarial pattern may live on what eight bits or another size take away. So an image is kept only if, rounded to
eight bits, the teacher's top class is the label, still is after a resize, and is an independent judge's too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug.models.guard import evaluation_mode


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, rounded to the nearest."""
    return (255 * images).round().clamp(0, 255).to(torch.uint8)


class Acceptance:
    """The rule, and the teacher's answer to what a file will hold.

    Args:
        teacher: its top class has to be the label.
        judge: another network's too, with the same classes, which took no part in the search; None: none.
        resize: the share that images are shrunk to and enlarged from before the teacher is asked again, in (0, 1];
            None: it is not.
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
    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Which are kept, `(B,)` bool, and the teacher's probabilities `(B, K)` of the rounded images.

        Args:
            images: `(B, C, H, W)` uint8, see `to_bytes`.
            labels: `(B,)`.
        """
        shown, labels = images.float() / 255, labels.long()
        models = [self.teacher] if self.judge is None else [self.teacher, self.judge]
        with evaluation_mode(*models), torch.autocast(shown.device.type, enabled=False):
            soft = self.teacher(shown).float().softmax(1)
            kept = (soft.argmax(1) == labels) & (soft.gather(1, labels[:, None])[:, 0] >= self.confidence)
            if self.resize is not None and len(images):
                small = [max(1, round(self.resize * side)) for side in shown.shape[-2:]]
                smaller = F.interpolate(shown, size=small, mode="bilinear", antialias=True)
                again = F.interpolate(smaller, size=shown.shape[-2:], mode="bilinear", antialias=True)
                kept &= self.teacher(again).argmax(1) == labels
            if self.judge is not None:
                kept &= self.judge(shown).argmax(1) == labels
        return kept, soft
