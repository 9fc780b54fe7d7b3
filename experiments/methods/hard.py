"""Training method `hard`: `HardAugmenter`, built from the config group `augmenter`."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.methods.base import Method
from experiments.methods.drawn_views import finished_transform
from experiments.training.distributed import local_rows
from hard_aug import Exploration, HardAugmenter, HardBatch
from hard_aug.compatibility import check_parts
from hard_aug.evaluation.network_evaluations import TWO_VIEWS, augmenter_evaluations, planned_augmenter_evaluations

if TYPE_CHECKING:
    from experiments.methods.factory import MethodContext


class UnsupportedPartsError(ValueError):
    """Parts of an augmenter that the library cannot combine, which a sweep over parts skips."""


class Hard(Method):
    """Distillation on clean and hard images, with the library used as in a user's own training loop.

    `evaluations` includes the policy updates.

    Args:
        augmenter: makes the hard images.
        temperature: of the distillation; None: that of the augmenter's objective.
    """

    network_evaluations = TWO_VIEWS

    def __init__(self, augmenter: HardAugmenter, *, temperature: float | None = None) -> None:
        self.augmenter, self.temperature = augmenter, temperature
        self._last: HardBatch | None = None

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `Method.loss`."""
        self._last = self.augmenter(local_rows(images), local_rows(labels))
        return self._last.loss(temperature=self.temperature)

    @property
    def planned_evaluations(self) -> float:
        """See `Method.planned_evaluations`."""
        return self.network_evaluations + planned_augmenter_evaluations(self.augmenter)

    def evaluations(self, images: int) -> float:
        """See `Method.evaluations`."""
        return images * self.network_evaluations + augmenter_evaluations(self.augmenter, images)

    def scalars(self) -> dict[str, float]:
        """See `Method.scalars`."""
        if self._last is None:
            return {}
        return {
            "teacher_consistency": float(self._last.teacher_consistent.float().mean()),
            "disagreement": float(self._last.disagreement.mean()),
            "multiplier": float(self.augmenter.invariance.multiplier),
            "uniform_fraction": self.augmenter.uniform_fraction,
            "dropped_steps": float(self.augmenter.dropped_steps),
        }

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return self.augmenter.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self.augmenter.load_state_dict(state)


def build_hard(
    teacher: nn.Module,
    student: nn.Module,
    *,
    augmenter: DictConfig,
    temperature: float,
    seed: int,
    channels: int,
    context: MethodContext,
    objective: DictConfig | None = None,
    invariance: DictConfig | None = None,
) -> Hard:
    """Build the method from an augmenter's configuration, whose parts are instantiated here.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        augmenter: the node `augmenter`.
        temperature: of the distillation.
        seed: of the augmenter's draws.
        channels: of the images.
        context: provides the training images to transforms that are made from them.
        objective: replaces that of `augmenter`.
        invariance: replaces that of `augmenter`.

    Raises:
        UnsupportedPartsError: the parts cannot be combined.
    """
    parts = {
        "transform": finished_transform(instantiate(augmenter.transform), context),
        "objective": instantiate(objective or augmenter.objective),
        "invariance": instantiate(invariance or augmenter.invariance),
        "schedule": instantiate(augmenter.schedule),
    }
    policy = instantiate(augmenter.policy)
    if "channels" in inspect.signature(policy).parameters:
        policy = partial(policy, channels=channels)
    parts["policy"] = policy(parts["transform"].spec)
    try:
        check_parts(**parts)
    except ValueError as error:
        raise UnsupportedPartsError(str(error)) from error
    exploration = Exploration(
        entropy_weight=augmenter.entropy_weight,
        min_variance=augmenter.min_variance,
        min_uniform_fraction=augmenter.min_uniform_fraction,
    )
    made = HardAugmenter(
        teacher=teacher,
        student=student,
        exploration=exploration,
        batch_norm=augmenter.batch_norm,
        learning_rate=augmenter.learning_rate,
        seed=seed,
        **parts,
    )
    return Hard(made, temperature=temperature)
