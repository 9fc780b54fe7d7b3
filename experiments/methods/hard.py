"""Training method `hard`: `HardAugmenter`, built from the config group `augmenter`."""

from __future__ import annotations

import inspect
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.configuration.parts import completed
from experiments.methods.base import Method
from experiments.methods.drawn_views import calibrated, finished_transform
from experiments.training.distributed import local_rows
from experiments.training.setup import Setup
from hard_aug import Exploration, HardAugmenter, HardBatch
from hard_aug.compatibility import check_parts
from hard_aug.evaluation.network_evaluations import (
    FORWARD,
    TWO_VIEWS,
    augmenter_evaluations,
    planned_augmenter_evaluations,
)
from hard_aug.policies import Policy


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

    @property
    def fixed_evaluations(self) -> float:
        """See `Method.fixed_evaluations`."""
        found = self.augmenter.calibration
        return 0.0 if found is None else FORWARD * found.evaluations

    def evaluations(self, images: int) -> float:
        """See `Method.evaluations`."""
        return images * self.network_evaluations + augmenter_evaluations(self.augmenter, images)

    def scalars(self) -> dict[str, float]:
        """See `Method.scalars`."""
        if self._last is None:
            return {}
        self.augmenter.check()  # what calls on a GPU have found; these values synchronise with it anyway
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
    setup: Setup,
    objective: DictConfig | None = None,
    invariance: DictConfig | None = None,
) -> Hard:
    """Build the method from the node `augmenter`, whose parts are instantiated here.

    `objective` and `invariance` replace those of `augmenter`.

    Raises:
        UnsupportedPartsError: the parts cannot be combined.
    """
    transform, policy = finished_transform(instantiate(augmenter.transform), setup), instantiate(augmenter.policy)
    wanted = inspect.signature(policy).parameters if callable(policy) else ()
    channels = {"channels": setup.shape[0]} if "channels" in wanted else {}
    parts = {
        "transform": transform,
        "policy": completed(policy, Policy, transform.spec, name="augmenter.policy", **channels),
        "objective": instantiate(objective or augmenter.objective),
        "invariance": instantiate(invariance or augmenter.invariance),
        "schedule": instantiate(augmenter.schedule),
    }
    try:
        check_parts(**parts)
    except ValueError as error:
        raise UnsupportedPartsError(str(error)) from error
    if augmenter.calibration and not parts["policy"].starts_from_reach:
        raise UnsupportedPartsError(
            f"{type(parts['policy']).__name__} has no start that a calibration sets; use augmenter.calibration=false"
        )
    calibration = calibrated(teacher, transform, setup, seed=seed) if augmenter.calibration else None
    exploration = {key: augmenter[key] for key in ("entropy_weight", "min_variance", "min_uniform_fraction")}
    settings = {key: augmenter[key] for key in ("batch_norm", "learning_rate")}
    settings |= {"exploration": Exploration(**exploration), "seed": seed, "calibration": calibration or False}
    return Hard(HardAugmenter(teacher=teacher, student=student, **parts, **settings), temperature=temperature)
