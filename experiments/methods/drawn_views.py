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
from hard_aug.transforms import Transform


@dataclass(eq=False, kw_only=True)
class RandomViews(TwoViewMethod):
    """The second view is drawn uniformly from `scale`, a fraction in (0, 1], of each range's centre of a transform."""

    transform: Transform
    scale: float = 1.0

    def second_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `TwoViewMethod.second_view`."""
        return random_views(self.transform, images, self._generator, scale=self.scale, labels=labels)


def finished_transform(transform: Transform | Callable[..., Transform], setup: Setup) -> Transform:
    """Return a configured transform; one that is made from the training images is `_partial_` until here."""
    return completed(transform, Transform, name="transform", images=setup.splits.train)


def build_random(
    teacher: nn.Module,
    student: nn.Module,
    *,
    transform: Transform | Callable[..., Transform],
    scale: float,
    temperature: float,
    seed: int,
    setup: Setup,
) -> RandomViews:
    """Build random augmentation; see `RandomViews`, whose arguments these are, and `finished_transform`."""
    made = finished_transform(transform, setup)
    return RandomViews(teacher, student, transform=made, scale=scale, temperature=temperature, seed=seed)


def oracle_views(teacher: nn.Module, student: nn.Module, *, temperature: float, seed: int, setup: Setup) -> RandomViews:
    """Build random augmentation by the task's own transform: an upper bound that uses the true invariance.

    Raises:
        ValueError: the task has no known invariance.
    """
    transform, scale = setup.task.oracle(setup.shape[-1])
    return RandomViews(teacher, student, transform=transform, scale=scale, temperature=temperature, seed=seed)


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
