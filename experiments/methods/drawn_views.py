"""Views by random augmentations: of the augmenter's transform, of the task's own, and of torchvision's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.configuration.parts import completed
from experiments.methods.base import TwoViewMethod
from experiments.tasks.random_views import random_views
from experiments.training.setup import Setup
from hard_aug import Calibration, calibrate
from hard_aug.calibration.first_calls import IMAGES
from hard_aug.evaluation.network_evaluations import FORWARD
from hard_aug.policies import GroupBandit, Policy, Uniform
from hard_aug.transforms import Transform


@dataclass(eq=False, kw_only=True)
class RandomViews(TwoViewMethod):
    """The second view is drawn from a policy that learns nothing.

    Attributes:
        transform: makes the views.
        policy: of its parameters; None: uniform in its ranges.
        calibration: what the ranges were calibrated by, whose cost counts; None: they were not.
    """

    transform: Transform
    policy: Policy | None = None
    calibration: Calibration | None = None

    def second_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `TwoViewMethod.second_view`."""
        return random_views(self.transform, images, self._generator, policy=self.policy, labels=labels)

    @property
    def fixed_evaluations(self) -> float:
        """See `Method.fixed_evaluations`."""
        return 0.0 if self.calibration is None else FORWARD * self.calibration.evaluations


def finished_transform(transform: Transform | Callable[..., Transform], setup: Setup) -> Transform:
    """Return a configured transform; one that is made from the training images is `_partial_` until here."""
    return completed(transform, Transform, name="transform", images=setup.splits.train)


def build_random(
    teacher: nn.Module,
    student: nn.Module,
    *,
    transform: Transform | Callable[..., Transform],
    scale: float,
    groups: tuple[int, int] | None = None,
    calibration: bool = False,
    temperature: float,
    seed: int,
    setup: Setup,
) -> RandomViews:
    """Build random augmentation, uniform in a fraction of the ranges of a transform.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        transform: makes the views; see `finished_transform`.
        scale: fraction of the ranges that is used, in (0, 1].
        groups: the smallest and the largest number of groups of parameters that change an image, as in RandAugment;
            None: all do.
        calibration: whether the ranges are those in which the teacher keeps its predictions, see `hard_aug.calibrate`;
            without `groups` they are the joint ones.
        temperature: of the distillation.
        seed: of the draws.
        setup: of the run.
    """
    made = finished_transform(transform, setup)
    found = calibrated(teacher, made, setup, seed=seed) if calibration else None
    policy: Policy = Uniform(made.spec, scale=scale)
    if groups is not None:
        policy = GroupBandit(made.spec, groups=tuple(groups), power=0.0, floor=1.0)
        reach = torch.ones(made.size, 2) if found is None else found.reach
        policy.set_reach(scale * reach)
    elif found is not None:
        made = found.narrowed()
        policy = Uniform(made.spec, scale=scale)
    return RandomViews(
        teacher, student, transform=made, policy=policy, calibration=found, temperature=temperature, seed=seed
    )


def calibrated(teacher: nn.Module, transform: Transform, setup: Setup, *, seed: int) -> Calibration | None:
    """Return the calibration of a transform on training images; None for the untrained teacher of a check."""
    if setup.untrained:
        return None
    images = setup.splits.train[slice(0, 4 * IMAGES)].materialize().images
    return calibrate(teacher, images, transform, max_images=IMAGES, seed=seed, progress=False)


def oracle_views(teacher: nn.Module, student: nn.Module, *, temperature: float, seed: int, setup: Setup) -> RandomViews:
    """Build random augmentation by the task's own transform: an upper bound that uses the true invariance.

    Raises:
        ValueError: the task has no known invariance.
    """
    transform, scale = setup.task.oracle(setup.shape[-1])
    policy = Uniform(transform.spec, scale=scale)
    return RandomViews(teacher, student, transform=transform, policy=policy, temperature=temperature, seed=seed)


@contextmanager
def seeded_from(generator: torch.Generator) -> Iterator[None]:
    """Seed torch's global CPU generator by a number of `generator` within the block; its state is restored.

    For transforms that accept no generator.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the GPUs' generators
        yield


class DrawnViews(TwoViewMethod):
    """The second view is made by an augmentation that draws from torch's global generator."""

    @abstractmethod
    def draw(self, images: Tensor) -> Tensor:
        """Return views `(B, C, H, W)` in [0, 1] of `images`; may use the global generator, see `seeded_from`."""

    def second_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `TwoViewMethod.second_view`."""
        with seeded_from(self._generator):
            return self.draw(images)


@dataclass(eq=False, kw_only=True)
class TorchvisionViews(DrawnViews):
    """Views by a torchvision transform of a `(C, H, W)` uint8 image, with separate draws for each; it runs on the CPU.

    AugMix has no consistency loss here: distillation on the clean and the mixed image already enforces consistency.

    Raises:
        ValueError: a magnitude of RandAugment outside its range, which torchvision does not check.
    """

    transform: v2.Transform

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.transform, v2.RandAugment):
            magnitude, highest = self.transform.magnitude, self.transform.num_magnitude_bins - 1
            if not 0 <= magnitude <= highest:
                raise ValueError(f"magnitude={magnitude}: expected an integer from 0 to {highest}")

    def draw(self, images: Tensor) -> Tensor:
        """See `DrawnViews.draw`."""
        as_bytes = (255 * images.cpu()).round().to(torch.uint8)
        # An 8-bit image that no operation changes is reproduced exactly.
        return torch.stack([self.transform(image) for image in as_bytes]).to(images) / 255
