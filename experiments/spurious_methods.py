"""Ways of teaching that only the spurious experiment has: CutMix, and a pool of other images.

All do the work of `experiments.methods`: the teacher on a clean and another view, one student forward on both, and the
mean of the two distillation losses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from experiments.data import Part
from experiments.methods import Method
from experiments.training import Batches
from hard_aug.distillation import distillation_loss


class SecondView(Method):
    """Distillation on the clean images and on a second set of images that `views` makes.

    Args:
        teacher, student: the networks.
        temperature: of the distillation.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, *, temperature: float) -> None:
        self.teacher, self.student, self.temperature = teacher, student, temperature

    def views(self, images: Tensor, labels: Tensor) -> Tensor:
        """`(M, C, H, W)`."""
        raise NotImplementedError

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            views = self.views(images, labels)
            teacher = self.teacher(torch.cat((images, views)))
        student = self.student(torch.cat((images, views)))
        count = len(images)
        losses = [
            distillation_loss(student_logits=s, teacher_logits=t, temperature=self.temperature)
            for s, t in ((student[:count], teacher[:count]), (student[count:], teacher[count:]))
        ]
        return 0.5 * losses[0] + 0.5 * losses[1]


class CutMixed(SecondView):
    """CutMix (arXiv:1905.04899) by torchvision; the teacher answers the mixed image itself."""

    def __init__(self, teacher: nn.Module, student: nn.Module, *, temperature: float, classes: int) -> None:
        from torchvision.transforms import v2

        super().__init__(teacher, student, temperature=temperature)
        self._mix = v2.CutMix(num_classes=classes)

    def views(self, images: Tensor, labels: Tensor) -> Tensor:
        mixed: Tensor = self._mix(images, labels)[0]  # draws from the global generator, which the training keeps
        return mixed


class Pool(SecondView):
    """A batch of generated images beside each clean one, shuffled anew in each round through them."""

    def __init__(self, teacher: nn.Module, student: nn.Module, pool: Part, *, temperature: float, seed: int) -> None:
        super().__init__(teacher, student, temperature=temperature)
        self.pool, self.seed = pool, seed
        self._batches: Batches | None = None
        self._state: dict[str, Any] | None = None

    def views(self, images: Tensor, labels: Tensor) -> Tensor:
        if self._batches is None:
            self._batches = Batches(self.pool, min(len(images), len(self.pool)), self.seed)
            if self._state is not None:
                self._batches.load_state_dict(self._state)
        return self._batches.next().images

    def state_dict(self) -> dict[str, Any]:
        return {} if self._batches is None else self._batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state, self._batches = state or None, None
