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
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.tasks.random_views import random_views
from experiments.training.distributed import local_rows
from hard_aug.evaluation.network_evaluations import FORWARD, TRAINED, TWO_VIEWS
from hard_aug.losses import TwoViewLoss, distillation_loss
from hard_aug.transforms import Transform

if TYPE_CHECKING:
    from experiments.data import BatchSource


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

    def evaluations(self, images: int) -> float:
        """Return the network evaluations so far; `images`: number of images trained on, each batch counted anew."""
        return images * self.network_evaluations

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


class Supervised(Method):
    """Cross-entropy with the labels on clean images."""

    network_evaluations = TRAINED

    def __init__(self, student: nn.Module) -> None:
        self.student = student

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `Method.loss`."""
        return F.cross_entropy(self.student(local_rows(images)), local_rows(labels))


class Distillation(Method):
    """Distillation on clean images (Hinton et al., arXiv:1503.02531)."""

    network_evaluations = FORWARD + TRAINED

    def __init__(self, teacher: nn.Module, student: nn.Module, *, temperature: float) -> None:
        self.teacher, self.student, self.temperature = teacher, student, temperature

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `Method.loss`."""
        images = local_rows(images)
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        return distillation_loss(
            student_logits=self.student(images), teacher_logits=teacher_logits, temperature=self.temperature
        )


class TwoViewMethod(Method):
    """Distillation on a first view (the clean images) and a second view, with half of the loss each."""

    network_evaluations = TWO_VIEWS

    def __init__(self, teacher: nn.Module, student: nn.Module, *, temperature: float) -> None:
        self.teacher, self.student, self.temperature = teacher, student, temperature
        self._loss = TwoViewLoss(student, temperature=temperature)

    def first_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the first view of the global batch, `(B, C, H, W)`; called before `second_view`."""
        return images

    @abstractmethod
    def second_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the second view of the global batch, `(M, C, H, W)`."""

    def observe(self, first: Tensor, second: Tensor) -> None:
        """Receive the teacher's logits on the two views, `(B, K)` and `(M, K)`, for logging."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `Method.loss`."""
        with torch.no_grad():
            first, second = local_rows(self.first_view(images, labels)), local_rows(self.second_view(images, labels))
            first_teacher, second_teacher = self.teacher(first), self.teacher(second)
        self.observe(first_teacher, second_teacher)
        return self._loss(first, second, clean_teacher_logits=first_teacher, hard_teacher_logits=second_teacher).loss


class SeededViews(TwoViewMethod):
    """The second view is drawn from the method's own CPU generator.

    Attributes:
        mixes: whether a view combines several images, so that the teacher's consistency is undefined.
    """

    mixes = False

    def __init__(self, teacher: nn.Module, student: nn.Module, *, temperature: float, seed: int = 0) -> None:
        super().__init__(teacher, student, temperature=temperature)
        self._generator = torch.Generator().manual_seed(seed)
        self._consistent: Tensor | None = None

    def observe(self, first: Tensor, second: Tensor) -> None:
        """See `TwoViewMethod.observe`."""
        self._consistent = None if self.mixes else (first.argmax(1) == second.argmax(1)).float().mean()

    def scalars(self) -> dict[str, float]:
        """See `Method.scalars`."""
        return {} if self._consistent is None else {"teacher_consistency": float(self._consistent)}

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self._generator.set_state(state["generator"])


class RandomViews(SeededViews):
    """The second view is drawn uniformly from a fraction of a transform's ranges.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        transform: draws from its ranges.
        temperature: of the distillation.
        scale: fraction of each range, its centre, in (0, 1].
        seed: of the draws.
    """

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
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        self.transform, self.scale = transform, scale

    def second_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `TwoViewMethod.second_view`."""
        return random_views(self.transform, images, self._generator, scale=self.scale, labels=labels)
