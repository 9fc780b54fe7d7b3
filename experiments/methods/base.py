"""Training methods of a student: on labels, by distillation on clean images, or on a clean and an augmented view.

Methods with an augmented view do the same work: the teacher on both views, one forward pass of the student on both
together, and the mean of the two distillation losses. The teacher predicts on the images that the student sees, so
mixed images need no mixed labels.

In a multi-process run each process gets the same global batch. A method draws its views of the whole batch and selects
its own rows with `experiments.training.distributed.local_rows`.

To add a method, derive it from `Method` and add a file to `conf/method`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.data import BatchSource
from experiments.training.distributed import local_rows
from hard_aug.evaluation.network_evaluations import FORWARD, TRAINED, TWO_VIEWS
from hard_aug.losses import TwoViewLoss, distillation_loss
from hard_aug.utils.checks import as_seed


class Method(ABC):
    """The interface between a training method and the training loop.

    Attributes:
        batches: replaces shuffled batches of the training images.
        network_evaluations: of a step for each image of the batch, see `hard_aug.evaluation.network_evaluations`.
    """

    batches: BatchSource | None = None
    network_evaluations: float

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of the global batch, `(B, C, H, W)` and `(B,)`.

        In a multi-process run it is the loss of this process's rows; the mean over processes is that of one process.
        """

    def after_step(self) -> None:  # noqa: B027 - most methods need no hook
        """Run after each step of the student's optimiser."""

    @property
    def planned_evaluations(self) -> float:
        """Expected network evaluations of a step for each image of the batch.

        Raises:
            ValueError: the cost is not known in advance.
        """
        return self.network_evaluations

    @property
    def fixed_evaluations(self) -> float:
        """Network evaluations that do not depend on the number of steps, such as those of a calibration."""
        return 0.0

    def evaluations(self, images: int) -> float:
        """Return the network evaluations so far; `images`: number of images trained on, each batch counted anew."""
        return images * self.network_evaluations + self.fixed_evaluations

    @property
    def failure_metrics(self) -> dict[str, float]:
        """Failure metrics of the images that the method generates, see `hard_aug.synthesis.failure_metrics`."""
        return {}

    def scalars(self) -> dict[str, float]:
        """Return the values to be logged, of the last batch."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next loss depends on besides the student."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most methods have no state
        """Load a state returned by `state_dict()`."""


@dataclass(eq=False)
class Supervised(Method):
    """Cross-entropy with the labels on clean images."""

    network_evaluations = TRAINED
    student: nn.Module

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `Method.loss`."""
        return F.cross_entropy(self.student(local_rows(images)), local_rows(labels))


@dataclass(eq=False)
class Distillation(Method):
    """Distillation on clean images (Hinton et al., arXiv:1503.02531).

    Attributes:
        teacher: the frozen network.
        student: the network to be trained.
        temperature: of the distillation.
    """

    network_evaluations = FORWARD + TRAINED
    teacher: nn.Module
    student: nn.Module
    _: KW_ONLY
    temperature: float

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `Method.loss`."""
        images = local_rows(images)
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        return distillation_loss(
            student_logits=self.student(images), teacher_logits=teacher_logits, temperature=self.temperature
        )


@dataclass(eq=False, kw_only=True)
class TwoViewMethod(Distillation):
    """Distillation on a first view (the clean images) and a second view, with half of the loss each.

    Attributes:
        seed: of the draws, which are made by the method's own CPU generator.
        mixes: whether the two views show different images, so that the teacher's consistency is undefined.
    """

    network_evaluations = TWO_VIEWS
    mixes = False
    seed: int = 0

    def __post_init__(self) -> None:
        self._loss = TwoViewLoss(self.student, temperature=self.temperature)
        self._generator = torch.Generator().manual_seed(as_seed(self.seed))
        self._consistent: Tensor | None = None

    def first_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the first view of the global batch, `(B, C, H, W)`; called before `second_view`."""
        return images

    @abstractmethod
    def second_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the second view of the global batch, `(M, C, H, W)`."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `Method.loss`."""
        with torch.no_grad():
            first, second = local_rows(self.first_view(images, labels)), local_rows(self.second_view(images, labels))
            clean, hard = self.teacher(first), self.teacher(second)
            self._consistent = None if self.mixes else (clean.argmax(1) == hard.argmax(1)).float().mean()
        return self._loss(first, second, clean_teacher_logits=clean, hard_teacher_logits=hard).loss

    def scalars(self) -> dict[str, float]:
        """See `Method.scalars`."""
        return {} if self._consistent is None else {"teacher_consistency": float(self._consistent)}

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self._generator.set_state(state["generator"])
