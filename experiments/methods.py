"""How a student is taught: on labels, by a teacher on clean images, or by it on a clean and an augmented view.

| name | augmented view |
|---|---|
| `labels` | none; cross-entropy with the labels |
| `kd` | none |
| `random` | uniform in (a share of) the ranges of the augmenter's transform |
| `oracle` | uniform in the task's own transform: it is told what is to be transferred |
| `hard` | `HardAugmenter` |
| `mixed` | none; generated hard images stand in some slots of the batch, see `experiments.mixing` |

`random`, `oracle` and `hard` do the same work: the teacher on both views, one student forward on both together, and
the loss is the mean of the two distillation losses. So do the published augmentations of `experiments.baselines`.

Of several processes each is given the same global batch. A method draws its views of all of it, and takes its own rows
by `experiments.processes.local`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.evaluations import FORWARD, TRAINED, TWO_VIEWS, of_augmenter, planned_of_augmenter
from experiments.processes import local
from experiments.training import Source
from experiments.views import random_views
from hard_aug import HardAugmenter, HardBatch
from hard_aug.distillation import distillation_loss
from hard_aug.transforms import Transform

NAMES = ("labels", "kd", "random", "oracle", "hard", "mixed")


class Method(ABC):
    """What the training loop needs of a way of teaching."""

    #: What the student is trained on in place of shuffled batches.
    batches: Source | None = None
    #: What a step costs for each image of the batch, in the units of `experiments.evaluations`.
    network_evaluations: float

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """A scalar to descend, for images `(B, C, H, W)` and labels `(B,)` of the global batch.

        Of several processes: on this one's rows, so that the mean over them is what one process would descend.
        """

    def after_step(self) -> None:  # noqa: B027 - most have nothing to do
        """Called after each step of the student's optimiser."""

    @property
    def planned(self) -> float:
        """What a step will cost for each image, all counted.

        Raises:
            ValueError: that is not known before.
        """
        return self.network_evaluations

    def evaluations(self, images: int) -> float:
        """What training on so many images, each batch's counted anew, has cost."""
        return images * self.network_evaluations

    def scalars(self) -> dict[str, float]:
        """What is worth a curve, of the last batch."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What the next loss depends on beside the student."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most have no state
        """Take up `state_dict()`."""


class Labels(Method):
    """Cross-entropy with the labels on clean images."""

    network_evaluations = TRAINED

    def __init__(self, student: nn.Module) -> None:
        self.student = student

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.student(local(images)), local(labels))


class Distillation(Method):
    """Distillation on clean images (Hinton et al., arXiv:1503.02531)."""

    network_evaluations = FORWARD + TRAINED

    def __init__(self, teacher: nn.Module, student: nn.Module, *, temperature: float) -> None:
        self.teacher, self.student, self.temperature = teacher, student, temperature

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        images = local(images)
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        return distillation_loss(
            student_logits=self.student(images), teacher_logits=teacher_logits, temperature=self.temperature
        )


class SecondView(Method):
    """Distillation on the clean images and on others that `views` makes, half of the loss each.

    Args:
        teacher, student: the networks.
        temperature: of the distillation.
    """

    network_evaluations = TWO_VIEWS

    def __init__(self, teacher: nn.Module, student: nn.Module, *, temperature: float) -> None:
        self.teacher, self.student, self.temperature = teacher, student, temperature

    def first(self, images: Tensor, labels: Tensor) -> Tensor:
        """What stands for the clean images, `(B, C, H, W)`: they themselves. Called before `views`."""
        return images

    @abstractmethod
    def views(self, images: Tensor, labels: Tensor) -> Tensor:
        """`(M, C, H, W)` of the global batch."""

    def see(self, clean: Tensor, view: Tensor) -> None:
        """The teacher's logits `(B, K)` and `(M, K)` on both."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            images, views = local(self.first(images, labels)), local(self.views(images, labels))
            clean_teacher, view_teacher = self.teacher(images), self.teacher(views)
        self.see(clean_teacher, view_teacher)
        clean, view = self.student(torch.cat((images, views))).split((len(images), len(views)))
        return 0.5 * distillation_loss(
            student_logits=clean, teacher_logits=clean_teacher, temperature=self.temperature
        ) + 0.5 * distillation_loss(student_logits=view, teacher_logits=view_teacher, temperature=self.temperature)


class RandomViews(SecondView):
    """The view is drawn uniformly from `scale` times the transform's ranges."""

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        transform: Transform,
        *,
        temperature: float,
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(teacher, student, temperature=temperature)
        self.transform, self.scale = transform, scale
        self._generator = torch.Generator().manual_seed(seed)
        self._kept = torch.zeros(())

    def views(self, images: Tensor, labels: Tensor) -> Tensor:
        return random_views(self.transform, images, self._generator, scale=self.scale, labels=labels)

    def see(self, clean: Tensor, view: Tensor) -> None:
        self._kept = (clean.argmax(1) == view.argmax(1)).float().mean()

    def scalars(self) -> dict[str, float]:
        return {"teacher_keeps": float(self._kept)}

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])


class Hard(Method):
    """Distillation on clean and hard images: the library as a user's loop has it.

    `evaluations` adds what the ascents cost.
    """

    network_evaluations = TWO_VIEWS

    def __init__(self, augmenter: HardAugmenter, *, temperature: float | None = None) -> None:
        self.augmenter, self.temperature = augmenter, temperature
        self._last: HardBatch | None = None

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self._last = self.augmenter(local(images), local(labels))
        return self._last.loss(temperature=self.temperature)

    @property
    def planned(self) -> float:
        return self.network_evaluations + planned_of_augmenter(self.augmenter)

    def evaluations(self, images: int) -> float:
        return images * self.network_evaluations + of_augmenter(self.augmenter, images)

    def after_step(self) -> None:
        self.augmenter.step()

    def scalars(self) -> dict[str, float]:
        if self._last is None:
            return {}
        return {
            "teacher_keeps": float(self._last.unchanged.float().mean()),
            "disagreement": float(self._last.disagreement.mean()),
            "multiplier": float(self.augmenter.invariance.multiplier),
            "uniform_share": self.augmenter.uniform_share,
            "dropped_steps": float(self.augmenter.dropped_steps),
        }

    def state_dict(self) -> dict[str, Any]:
        return self.augmenter.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.augmenter.load_state_dict(state)
